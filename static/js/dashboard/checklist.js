// The first steps with a new store: what is done, and how to do the rest.
import { makeDemo, ROOT } from './api.js';
import { fill, h, icon, toast } from './dom.js';
import { daysBetween, isDay } from './format.js';
import { naming } from './snippet.js';
import { reportingZones } from './state.js';
import { START } from './texts.js';

/** Where the browser keeps that the list was closed, and what was decided. */
const CLOSED = 'echopilot.start';
const DECIDED = 'echopilot.start.retention';
/** Days after the first event in which the list is shown. */
const DAYS = 30;

function kept(name) {
  try {
    return localStorage.getItem(name) !== null;
  } catch {
    return false;
  }
}

function keep(name) {
  try {
    localStorage.setItem(name, 'yes');
  } catch {
    // Without storage it is shown again at the next visit.
  }
}

/** True if the first event is of these days. */
export const isYoung = (firstDay, today) => Boolean(firstDay) && isDay(firstDay) && daysBetween(firstDay, today) < DAYS;

/** True if the first steps are shown: the store is young, and the list was not closed. */
export const isStart = (firstDay, today) => isYoung(firstDay, today) && !kept(CLOSED);

/** Fills the list of first steps; `users` and `conversions` are those of the window. Empty if all is done. */
export function showStart(element, { users, conversions }) {
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const decide = h('button', {
    type: 'button',
    class: 'button',
    onclick: () => {
      keep(DECIDED);
      showStart(element, { users, conversions });
    },
    text: START.decided,
  });
  const steps = [
    ['event', true, START.event],
    ['user', users > 0, START.user, h('pre', { tabindex: '0', text: naming })],
    ['conversion', conversions > 0, START.conversion, h('pre', { tabindex: '0', text: START.conversionCode })],
    [
      'zone',
      reportingZones().includes(own),
      START.zone(reportingZones()[0]),
      h('pre', { tabindex: '0', text: START.zoneCode(own) }),
    ],
    [
      'retention',
      kept(DECIDED),
      START.retention,
      h('div', {}, h('pre', { tabindex: '0', text: START.retentionCode }), decide),
    ],
  ];
  const open = steps.filter(([, isDone]) => !isDone);
  element.hidden = !open.length;
  const demo = h(
    'button',
    {
      type: 'button',
      class: 'button',
      onclick: async () => {
        demo.disabled = true;
        try {
          await makeDemo();
          location.assign(`${ROOT}demo/`);
        } catch (error) {
          toast(error.message);
          demo.disabled = false;
        }
      },
    },
    START.demo,
  );
  fill(
    element,
    h(
      'header',
      {},
      h('div', { class: 'panel-title' }, h('h2', { text: START.title(steps.length - open.length, steps.length) })),
      demo,
      h(
        'button',
        {
          type: 'button',
          class: 'tool',
          'aria-label': START.close,
          title: START.close,
          onclick: () => {
            keep(CLOSED);
            element.hidden = true;
          },
        },
        icon('close'),
      ),
    ),
    h(
      'ol',
      { class: 'start' },
      steps.map(([name, isDone, text, how]) =>
        h(
          'li',
          { 'data-start': name, 'data-done': String(isDone) },
          isDone
            ? h('p', {}, h('strong', { text: `✓ ${START.done}: ` }), text)
            : h('details', {}, h('summary', { text }), how),
        ),
      ),
    ),
  );
}
