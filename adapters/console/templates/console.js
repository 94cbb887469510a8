// Every page works without this. It moves the slider without a new page, and keeps the overview live.
"use strict";

// One request at a time; while it runs, only the last wish is kept.
function latest(work) {
  let running = false;
  let wanted = null;
  return async function ask(wish) {
    wanted = wish;
    if (running) return;
    running = true;
    while (wanted !== null) {
      const next = wanted;
      wanted = null;
      try {
        await work(next);
      } catch {
        // The server is away: the page stays as it is.
      }
    }
    running = false;
  };
}

async function read(url) {
  const answer = await fetch(url, { credentials: "same-origin" });
  if (answer.redirected) location.reload();
  if (!answer.ok) throw new Error(String(answer.status));
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

function swap(fresh, id) {
  const now = document.getElementById(id);
  const then = fresh.getElementById(id);
  if (now && then) now.replaceChildren(...then.childNodes);
}

function startSlider(slider) {
  const show = latest(async (version) => {
    const url = new URL(location.href);
    url.searchParams.set("at", version);
    url.hash = "";
    const fresh = await read(url);
    swap(fresh, "version");
    history.replaceState(null, "", url);
    document.documentElement.dataset.shown = version;
  });
  const move = () => {
    document.getElementById("at-number").textContent = slider.value;
    for (const event of document.querySelectorAll("a.event")) {
      if (event.dataset.version === slider.value) event.setAttribute("aria-current", "true");
      else event.removeAttribute("aria-current");
    }
    show(slider.value);
  };
  slider.addEventListener("input", move);
  for (const event of document.querySelectorAll("a.event")) {
    event.addEventListener("click", (click) => {
      if (click.metaKey || click.ctrlKey || click.shiftKey) return;
      click.preventDefault();
      slider.value = event.dataset.version;
      move();
    });
  }
}

function startLive(part) {
  let seen = null;
  const refresh = latest(async () => {
    const fresh = await read(location.href);
    const open = [...part.querySelectorAll("details")].map((one) => one.open);
    swap(fresh, part.id);
    part.querySelectorAll("details").forEach((one, number) => { one.open = open[number] ?? one.open; });
  });
  let stream = null;
  // A browser opens an ended stream again, but not after an error such as 503. It has few connections: a hidden page gives its own back.
  const open = () => {
    if (stream || document.hidden) return;
    stream = new EventSource(part.dataset.live);
    stream.addEventListener("grown", (event) => {
      if (seen !== null && event.data !== seen && !part.contains(document.activeElement)) refresh(event.data);
      seen = event.data;
      document.documentElement.dataset.live = seen;
    });
    stream.addEventListener("error", () => {
      if (!stream || stream.readyState !== EventSource.CLOSED) return;
      stream = null;
      setTimeout(open, 10_000);
    });
  };
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) return open();
    stream?.close();
    stream = null;
  });
  open();
}

const slider = document.querySelector("[data-slider]");
if (slider) startSlider(slider);
const live = document.querySelector("[data-live]");
if (live) startLive(live);
