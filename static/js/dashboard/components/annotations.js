// Annotations: notes on dates, which every chart over time shows.
import { get } from '../api.js';
import { h, plain, short } from '../dom.js';
import { range } from '../format.js';
import { ANNOTATION } from '../texts.js';

let list = [];

/** Takes the annotations of the server. */
export function setAnnotations(found) {
  list = [...found].sort((a, b) => (a.date < b.date ? -1 : 1));
}

/** Fetches the annotations; true if there are any. Charts are drawn without them if they cannot be had. */
export async function loadAnnotations() {
  try {
    setAnnotations((await get('annotations')).annotations);
  } catch {
    list = [];
  }
  return list.length > 0;
}

const endOf = ({ date, to }) => to ?? date;

/** The annotations of a window, oldest first. */
const within = ({ from, to }) => list.filter((one) => one.date <= to && endOf(one) >= from);

/** Lines, and areas for spans of days, behind a chart whose `rows` have a period each. */
export function annotationMarks(rows, window, look) {
  const place = (day) => {
    const found = rows.findLastIndex(({ period }) => period.slice(0, 10) <= day);
    return Math.max(found, 0);
  };
  const found = within(window);
  return {
    lines: found.map((one) => ({
      xAxis: place(one.date),
      lineStyle: { color: look.ink, type: 'solid', width: 1, opacity: 0.55 },
      label: {
        formatter: () => short(one.text, 22),
        position: 'end',
        distance: [0, -14],
        rotate: 0,
        // Next to the line, within the chart.
        align: place(one.date) > rows.length * 0.75 ? 'right' : 'left',
        padding: [0, 5],
        color: look.ink,
        fontSize: 11,
        textBorderColor: look.card,
        textBorderWidth: 2,
      },
    })),
    areas: found
      .filter((one) => endOf(one) > one.date)
      .map((one) => [
        { xAxis: place(one.date), itemStyle: { color: look.ink, opacity: 0.05 } },
        { xAxis: place(endOf(one)) },
      ]),
  };
}

/** A list of the annotations of a window. */
export function annotationList(window) {
  const found = window ? within(window) : [];
  return (
    found.length > 0 &&
    h(
      'ul',
      { class: 'annotations', 'aria-label': ANNOTATION.list },
      found.map((one) =>
        h(
          'li',
          { 'data-annotation': one.id },
          h('span', { class: 'hint', text: range(one.date, endOf(one)) }),
          h('bdi', { text: plain(one.text) }),
        ),
      ),
    )
  );
}
