// Keeps a page live: asks whether anything has changed, and if so fetches the page again and swaps its
// main part. The page is rendered in one place only, on the broker, and works without this script.
"use strict";

const PERIOD_MS = 2000;
const live = document.getElementById("live");

async function refresh() {
  const main = document.getElementById("main");
  const answer = await fetch("/v1/dashboard.json?fields=version", { cache: "no-store" });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const { version } = await answer.json();
  if (String(version) === main.dataset.version) return;
  const page = await fetch(location.href, { cache: "no-store" });
  if (!page.ok) throw new Error(`status ${page.status}`);
  const fresh = new DOMParser().parseFromString(await page.text(), "text/html").getElementById("main");
  for (const open of main.querySelectorAll("details[open][id]")) {
    const same = fresh.querySelector(`#${CSS.escape(open.id)}`);
    if (same) same.open = true;
  }
  const focused = document.activeElement?.getAttribute("href");
  main.replaceWith(document.adoptNode(fresh));
  if (focused) document.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

async function loop() {
  if (!document.hidden) {
    try {
      await refresh();
      live.textContent = "Live";
    } catch {
      live.textContent = "The broker does not answer; trying again";
    }
  }
  setTimeout(loop, PERIOD_MS);
}

loop();
