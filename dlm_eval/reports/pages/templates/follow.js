// Asks the server of `dlm-eval view` whether there are new results. A page from a file asks nobody.
const FOLLOW_MS = 4000;
let known = null;

async function follow() {
  try {
    const state = await (await fetch(document.body.dataset.state, { cache: "no-store" })).json();
    if (known !== null && state.version !== known) { location.reload(); return; }
    known = state.version;
    at("news").textContent = state.running;
  } catch { at("news").textContent = "dlm-eval view has ended; this page stays as it is"; }
  setTimeout(follow, FOLLOW_MS);
}

if (document.body.dataset.state) follow();
