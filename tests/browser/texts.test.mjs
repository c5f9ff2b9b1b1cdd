// Every string that a person sees is in one file, so that a translation of the dashboard is one file too.
import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { test } from 'node:test';

const FOLDER = new URL('../../static/js/dashboard/', import.meta.url);
/** Files that have these strings, code for others to copy, or paths of pictures. */
const EXEMPT = new Set(['texts.js', 'snippet.js', 'icons.js']);
/** Names that look like such strings: of keys, errors, headers and elements, and parts of requests. */
const NAMES =
  /^(Enter|Escape|Backspace|AbortError|BroadcastChannel|600 11px system-ui|Content-Type|Accept|Authorization|Bearer |X-Dash-Key|7 days before|<iframe |EchoPilot\.)/;

/** The strings of a script, with the code in front of each. */
function stringsOf(code) {
  const found = [];
  // Braces within templates, by depth.
  const templates = [];
  let at = 0;
  const take = (end) => {
    const start = at;
    let text = '';
    while (at < code.length && !end(code, at)) {
      if (code[at] === '\\') at += 1;
      text += code[at];
      at += 1;
    }
    found.push({ text, before: code.slice(Math.max(0, start - 60), start - 1) });
  };
  const inTemplate = () => {
    take((all, place) => all[place] === '`' || all.startsWith('${', place));
    if (code[at] === '`') at += 1;
    else {
      at += 2;
      templates.push(0);
    }
  };
  while (at < code.length) {
    const char = code[at];
    if (code.startsWith('//', at)) at = code.indexOf('\n', at);
    else if (code.startsWith('/*', at)) at = code.indexOf('*/', at) + 2;
    else if (char === "'" || char === '"') {
      at += 1;
      take((all, place) => all[place] === char);
      at += 1;
    } else if (char === '`') {
      at += 1;
      inTemplate();
    } else if (char === '/' && /[(,=:[!&|?{};>]\s*$/.test(code.slice(Math.max(0, at - 20), at))) {
      at += 1;
      for (let isClass = false; isClass || code[at] !== '/'; at += 1) {
        if (code[at] === '\\') at += 1;
        else if (code[at] === '[') isClass = true;
        else if (code[at] === ']') isClass = false;
      }
      at += 1;
    } else if (char === '}' && templates.at(-1) === 0) {
      templates.pop();
      at += 1;
      inTemplate();
    } else {
      if (templates.length) templates[templates.length - 1] += { '{': 1, '}': -1 }[char] ?? 0;
      at += 1;
    }
  }
  return found;
}

/** True for a string that a person sees: it begins as a sentence does, or has several words. */
const isText = ({ text, before }) =>
  (/^\s*[A-Z][a-z]/.test(text) || /[a-z]{2,} [a-z]{2,}/.test(text)) &&
  !NAMES.test(text) &&
  !/(class(Name)?: ?|font|FONT = |trustedTypes\?\.)$/.test(before);

test('strings of a script are told from its comments, patterns and code', () => {
  const code =
    // biome-ignore lint/suspicious/noTemplateCurlyInString: it is code
    "a('One two'); // 'not this'\nb = /'\"[/`]/; c(`x ${d({ e: 'Three' })} four five`, \"it's\"); /* 'nor' */";
  assert.deepEqual(
    stringsOf(code).map(({ text }) => text),
    ['One two', 'x ', 'Three', ' four five', "it's"],
  );
  const texts = stringsOf("h('p', { class: 'panel tall', title: 'Any string' }); get('status'); on('Enter')").filter(
    isText,
  );
  assert.deepEqual(
    texts.map(({ text }) => text),
    ['Any string'],
  );
});

test('the strings of the dashboard are in one file', async () => {
  const all = (await readdir(FOLDER, { recursive: true })).filter((name) => name.endsWith('.js')).sort();
  assert.ok(all.length > 30, 'the files are found');
  const found = [];
  for (const name of all) {
    if (EXEMPT.has(name)) continue;
    const texts = stringsOf(await readFile(new URL(name, FOLDER), 'utf8')).filter(isText);
    found.push(...texts.map(({ text }) => `${name}: ${text}`));
  }
  assert.deepEqual(found, []);
});
