// Follows the log: each event is one line of JSON. Whatever stands in it becomes text, never markup.
"use strict";

const list = document.getElementById("live");
const state = document.getElementById("live-state");
const mostLines = 1000;

function addLine(line) {
  const item = document.createElement("li");
  const { timestamp, level, event, ...others } = line;
  item.className = String(level || "info").replace(/[^a-z]/g, "");
  const parts = [timestamp, event].filter((part) => part !== undefined);
  const more = Object.entries(others).map(([name, value]) =>
    name + "=" + (typeof value === "string" ? value : JSON.stringify(value)));
  item.textContent = visible([...parts, ...more].join("  "));
  const atEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 20;
  list.append(item);
  while (list.childElementCount > mostLines) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

// What would be invisible, or turn the line around, is shown by its number.
function visible(text) {
  return text.replace(
    /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\u{e0100}-\u{e01ef}]/gu,
    (one) => "\u27e8U+" + one.codePointAt(0).toString(16).toUpperCase() + "\u27e9");
}

const source = new EventSource("/live/lines");
source.onopen = () => { list.replaceChildren(); state.textContent = state.dataset.there; };
source.onerror = () => { state.textContent = state.dataset.lost; };
source.onmessage = (message) => addLine(JSON.parse(message.data));
