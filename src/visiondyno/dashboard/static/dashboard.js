"use strict";
// Every page is complete without this script: it keeps what is shown fresh, says when it is not,
// and sends forms without leaving the page.

const SILENCE_S = 8;
const lost = document.getElementById("lost");
const fresh = document.getElementById("fresh");
const freshText = document.getElementById("fresh-text");
const announce = document.getElementById("announce");

let source = null;
let ahead = 0;
let seenAt = null;
let trouble = "";
let ended = false;
let shownAt = "";

// --- Times -----------------------------------------------------------------------------------

function spanText(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (whole >= size) return `${Math.floor(whole / size)} ${unit}`;
  }
  return `${whole} s`;
}

const serverNow = () => Date.now() / 1000 + ahead;

function tellTimes(root) {
  for (const time of root.querySelectorAll("time[data-form]")) {
    const form = time.dataset.form;
    if (form === "clock") continue;
    const text = spanText(serverNow() - Date.parse(time.dateTime) / 1000) + (form === "ago" ? " ago" : "");
    if (time.textContent !== text) time.textContent = text;
  }
}

// --- Changing the page in place --------------------------------------------------------------

const keyOf = (node) => (node.nodeType === 1 ? node.dataset.key || node.id || "" : "");

function morph(own, wanted) {
  for (const { name } of [...own.attributes]) {
    // What a reader opened stays open.
    if (name !== "open" && !wanted.hasAttribute(name)) own.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (name !== "open" && own.getAttribute(name) !== value) own.setAttribute(name, value);
  }
  morphChildren(own, wanted);
}

function morphChildren(own, wanted) {
  const keyed = new Map();
  for (const child of own.children) if (keyOf(child)) keyed.set(keyOf(child), child);
  let place = own.firstChild;
  for (const next of [...wanted.childNodes]) {
    const key = keyOf(next);
    const alike = place && place.nodeName === next.nodeName && !keyOf(place) && !key;
    const found = key ? keyed.get(key) : alike ? place : null;
    if (!found || found.nodeName !== next.nodeName) {
      own.insertBefore(next, place);
      continue;
    }
    if (found !== place) own.insertBefore(found, place);
    if (found.nodeType === 1) morph(found, next);
    else if (found.data !== next.data) found.data = next.data;
    place = found.nextSibling;
  }
  while (place) {
    const after = place.nextSibling;
    place.remove();
    place = after;
  }
}

function fragment(html, inside) {
  const holder = document.createElement("template");
  // Rows need their table around them to be parsed as rows.
  holder.innerHTML = inside === "TBODY" ? `<table><tbody>${html}</tbody></table>` : html;
  return inside === "TBODY" ? holder.content.querySelector("tbody") : holder.content;
}

function show(regions) {
  const focused = document.activeElement?.id;
  for (const [name, html] of Object.entries(regions)) {
    const region = document.querySelector(`[data-region="${name}"]`);
    if (!region) continue;
    const wanted = fragment(html, region.tagName);
    tellTimes(wanted);
    morphChildren(region, wanted);
  }
  if (focused && document.activeElement?.id !== focused) document.getElementById(focused)?.focus();
}

function addRows(html) {
  const body = document.querySelector("[data-rows]");
  if (!body) return;
  const log = body.closest(".log");
  const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 30;
  for (const row of [...fragment(html, "TBODY").rows]) {
    if (!body.querySelector(`[data-key="${row.dataset.key}"]`)) body.append(row);
  }
  if (atEnd) log.scrollTop = log.scrollHeight;
}

// --- The live connection ---------------------------------------------------------------------

function connect() {
  source?.close();
  source = null;
  const url = document.getElementById("main").dataset.live;
  ended = !url;
  trouble = "";
  if (!url) {
    seenAt = null;
    tellFreshness();
    return;
  }
  source = new EventSource(url);
  const took = (event) => {
    const data = JSON.parse(event.data);
    ahead = data.at - Date.now() / 1000;
    seenAt = Date.now();
    trouble = "";
    show(data.regions);
    if (data.rows) addRows(data.rows);
    const clock = document.querySelector('time[data-form="clock"]');
    if (clock) {
      clock.dateTime = new Date(data.at * 1000).toISOString();
      clock.textContent = `${clock.dateTime.slice(0, 19).replace("T", " ")} UTC`;
      clock.title = clock.textContent;
    }
    tellFreshness();
  };
  source.addEventListener("regions", took);
  source.addEventListener("events", took);
  source.addEventListener("trouble", (event) => {
    trouble = JSON.parse(event.data).message;
    tellFreshness();
  });
  source.addEventListener("end", () => {
    source.close();
    source = null;
    ended = true;
    trouble = "";
    tellFreshness();
  });
  source.addEventListener("error", () => {
    // A refused connection isn't tried again by the browser.
    if (source?.readyState === EventSource.CLOSED) setTimeout(() => source && connect(), 4000);
    tellFreshness();
  });
  tellFreshness();
}

function tellFreshness() {
  if (document.hidden) return;
  const waiting = source !== null && seenAt === null;
  const silentS = seenAt === null ? (Date.now() - loadedAt) / 1000 : (Date.now() - seenAt) / 1000;
  const broken = source !== null && source.readyState !== EventSource.OPEN && !waiting;
  const stale = !ended && (trouble !== "" || broken || silentS > SILENCE_S);
  document.body.classList.toggle("stale", stale);
  fresh.hidden = ended;
  fresh.classList.toggle("stale", stale);
  fresh.classList.toggle("waiting", waiting);
  const age = `last seen ${spanText(silentS)} ago`;
  const said = stale ? age : waiting ? "connecting" : "live";
  if (freshText.textContent !== said) freshText.textContent = said;
  if (!stale) {
    lost.hidden = true;
    lost.textContent = "";
    return;
  }
  const why = trouble || "The connection to the server is lost; it is tried again.";
  const full = `${why} What you see may no longer hold.`;
  if (lost.textContent !== full) lost.textContent = full;
  lost.hidden = false;
}

let loadedAt = Date.now();

document.addEventListener("visibilitychange", () => {
  // A browser keeps few connections to a server: a page that nobody sees needs none.
  if (document.hidden) {
    source?.close();
    source = null;
  } else if (!ended) {
    loadedAt = Date.now();
    seenAt = null;
    connect();
  }
});

// --- Forms -----------------------------------------------------------------------------------

// What was done is said once, not again when the page is reloaded.
function withoutDid(url) {
  const address = new URL(url);
  address.searchParams.delete("did");
  return address;
}

function take(html, url, ok) {
  const page = new DOMParser().parseFromString(html, "text/html");
  const wanted = page.getElementById("main");
  const main = document.getElementById("main");
  if (!wanted) {
    location.assign(url);
    return;
  }
  source?.close();
  source = null;
  document.title = page.title;
  if (ok) {
    history.pushState({}, "", withoutDid(url));
    shownAt = location.pathname + location.search;
    main.replaceWith(wanted);
    document.querySelector(".bar nav")?.replaceWith(page.querySelector(".bar nav") ?? "");
  } else {
    morph(main, wanted);
  }
  const now = document.getElementById("main");
  tellTimes(now);
  const told = now.querySelector("[data-announce], .wrong");
  // An alert is read out by itself.
  announce.textContent = told?.getAttribute("role") === "alert" ? "" : (told ?? now.querySelector("h1"))?.textContent ?? page.title;
  const wrong = now.querySelector('[aria-invalid="true"]');
  (wrong ?? now).focus();
  if (told && !wrong) told.scrollIntoView({ block: "nearest" });
  seenAt = null;
  loadedAt = Date.now();
  connect();
}

function failed(form, text) {
  let note = form.querySelector(".sending-failed");
  if (!note) {
    note = document.createElement("div");
    note.className = "banner bad sending-failed";
    note.setAttribute("role", "alert");
    form.prepend(note);
  }
  note.textContent = text;
}

function send(form, button) {
  const request = new XMLHttpRequest();
  const bar = form.querySelector("[data-upload]");
  request.open("POST", form.action);
  request.setRequestHeader("Accept", "text/html");
  const data = new FormData(form);
  const files = form.enctype === "multipart/form-data";
  if (bar) {
    bar.hidden = false;
    request.upload.addEventListener("progress", (event) => {
      if (!event.lengthComputable) return;
      const meter = bar.querySelector("progress");
      meter.max = event.total;
      meter.value = event.loaded;
      const mb = (bytes) => (bytes / 1e6).toFixed(1);
      bar.querySelector("[data-upload-text]").textContent =
        event.loaded < event.total
          ? `${mb(event.loaded)} of ${mb(event.total)} MB sent`
          : "All sent; the server checks the file";
    });
  }
  const over = () => {
    if (button) button.disabled = false;
    if (bar) bar.hidden = true;
  };
  request.addEventListener("load", () => {
    over();
    take(request.responseText, request.responseURL, request.status < 400);
  });
  request.addEventListener("error", () => {
    over();
    failed(form, "The server could not be reached, so nothing was done. Check that it runs, and send it again.");
  });
  if (button) button.disabled = true;
  request.send(files ? data : new URLSearchParams(data));
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post" || "plain" in form.dataset) return;
  event.preventDefault();
  send(form, event.submitter);
});

addEventListener("popstate", () => {
  // A link inside the page, as the first one, leads nowhere else.
  if (location.pathname + location.search !== shownAt) location.reload();
});

document.documentElement.classList.add("js");
history.replaceState({}, "", withoutDid(location.href));
shownAt = location.pathname + location.search;
tellTimes(document);
connect();
setInterval(() => {
  if (!document.hidden) tellTimes(document);
  tellFreshness();
}, 1000);
