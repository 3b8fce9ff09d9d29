"""`python -m dlm_eval`."""

import sys

from dlm_eval.cli import main

sys.exit(main())
