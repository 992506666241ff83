// Keeps a page live: asks its JSON twin whether anything has changed, and if so fetches the page again and
// swaps its main part. Writes times as they are spoken of. Each page works without this script.
"use strict";

const PERIOD_MS = 2000;
const UNITS = [["year", 31557600], ["month", 2629800], ["day", 86400], ["hour", 3600], ["minute", 60]];
const live = document.getElementById("live");
const relative = new Intl.RelativeTimeFormat("en", { numeric: "always" });

function spoken(at) {
  const seconds = (at - Date.now()) / 1000;
  for (const [unit, length] of UNITS) {
    if (Math.abs(seconds) >= length) return relative.format(Math.trunc(seconds / length), unit);
  }
  return seconds > 0 ? "in less than a minute" : "just now";
}

function speak() {
  for (const time of document.querySelectorAll("time[datetime]:not([data-exact])")) {
    const text = spoken(Date.parse(time.dateTime));
    if (time.textContent !== text) time.textContent = text;
  }
}

async function refresh() {
  const main = document.getElementById("main");
  const twin = new URL(main.dataset.twin, location.href);
  twin.searchParams.set("fields", "version");
  const answer = await fetch(twin, { cache: "no-store" });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const { version } = await answer.json();
  if (String(version) === main.dataset.version) return;
  const page = await fetch(location.href, { cache: "no-store" });
  if (!page.ok) throw new Error(`status ${page.status}`);
  const fresh = new DOMParser().parseFromString(await page.text(), "text/html").getElementById("main");
  if (main.contains(document.activeElement) && document.activeElement.matches("input, select")) return;
  for (const open of main.querySelectorAll("details[open][id]")) {
    const same = fresh.querySelector(`#${CSS.escape(open.id)}`);
    if (same) same.open = true;
  }
  const focused = document.activeElement?.getAttribute("href");
  main.replaceWith(document.adoptNode(fresh));
  if (focused) document.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function show(state) {
  if (live.textContent !== state) live.textContent = state; // a screen reader announces each change
}

async function loop() {
  if (!document.hidden) {
    try {
      await refresh();
      show("Live");
    } catch {
      show("The broker does not answer; trying again");
    }
    speak();
  }
  setTimeout(loop, PERIOD_MS);
}

speak();
loop();
