"""Runs what README.md and the pages of docs print, as tests/test_printed.py does, and reports it.

python scripts/printed.py                          # all pages; exit code 1 if something fails
python scripts/printed.py docs/guides/compare.md   # one page
python scripts/printed.py --write                  # also renew the outputs that pages show
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", DISABLE_MULTIPROC="1")
sys.path.insert(0, str(ROOT / "tests"))

from printed_blocks import pages  # noqa: E402
from printed_run import Report, run_page  # noqa: E402
from printed_stage import Stage  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", type=Path, help="pages (default: all)")
    parser.add_argument("--write", action="store_true", help="renew shown outputs on the pages")
    parser.add_argument(
        "--shared", type=Path, default=Path(os.environ.get("DLM_EVAL_SHARED", ROOT.parent / "shared")),
        help="folder with recorded checkpoints and benchmark files (default: %(default)s)",
    )  # fmt: skip
    args = parser.parse_args()
    chosen = [page.resolve() for page in args.pages] or pages(ROOT)
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder), args.shared if args.shared.is_dir() else None)
        for page in chosen:
            began = time.monotonic()
            entries = run_page(stage, page, report, args.write)
            print(f"{page.relative_to(ROOT)}: {time.monotonic() - began:.1f} s", flush=True)
            for entry in entries:
                print(
                    f"  {entry.seconds:6.1f} s  {entry.state:8} {entry.place}  {' '.join(entry.text.split())[:90]}"
                )
                if entry.fault:
                    print(f"FAULT {entry.fault}", flush=True)
    print("\n".join(report.lines()))
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
