"use strict";
// What the scripts of all pages share: the data of the page, and text shown as text.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const percent = (p) => (p === null ? "?" : (100 * p).toFixed(1) + " %");
const MARKS = { "\n": "⏎", "\r": "␍", "\t": "⇥" };
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u061c\u200e\u200f\u2066-\u206f\ufff9-\ufffb\ud800-\udfff\u{e0001}-\u{e007f}]/u;

function addText(element, text) { // as text, never as markup; what cannot be seen is spelled out
  let plain = "";
  const flush = () => { if (plain) element.append(plain); plain = ""; };
  for (const character of text) {
    if (!HIDDEN.test(character)) { plain += character; continue; }
    flush();
    const mark = document.createElement("span");
    mark.className = "mark";
    mark.textContent = MARKS[character] || "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    element.append(mark);
    if (character === "\n" || character === "\t") element.append(character);
  }
  flush();
}
