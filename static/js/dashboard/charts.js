// Apache ECharts with the colours of the page and the parts that the overview draws; `more-charts.js` has the others. It is
// loaded while the first numbers are fetched.
// The modules themselves: from the list of all modules everything that any file uses would be here.

import { getInstanceByDom, init, use } from 'echarts/core';
import { install as bar } from 'echarts/lib/chart/bar/install.js';
import { install as line } from 'echarts/lib/chart/line/install.js';
import { install as aria } from 'echarts/lib/component/aria/install.js';
import { install as grid } from 'echarts/lib/component/grid/install.js';
import { install as legend } from 'echarts/lib/component/legend/install.js';
import { install as markArea } from 'echarts/lib/component/marker/installMarkArea.js';
import { install as markLine } from 'echarts/lib/component/marker/installMarkLine.js';
import { install as tooltip } from 'echarts/lib/component/tooltip/install.js';
import { CanvasRenderer } from 'echarts/renderers';

use([bar, line, aria, grid, legend, markArea, markLine, tooltip, CanvasRenderer]);

/** The types of series that are in this file. */
const TYPES = new Set(['bar', 'line']);

/** Loads what a chart needs in addition. */
export async function prepare(option) {
  const { series } = option(colours());
  if ([series].flat().some(({ type }) => !TYPES.has(type))) await import('./more-charts.js');
}

const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';

/** The current colours of the page. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    ink: of('ink'),
    muted: of('muted'),
    line: of('line'),
    card: of('card'),
    accent: of('accent'),
    soft: of('soft'),
    accentInk: of('accent-ink'),
    series: [1, 2, 3, 4, 5, 6, 7, 8].map((place) => of(`series-${place}`)),
    heat: [0, 1, 2, 3, 4].map((place) => of(`heat-${place}`)),
    onHeat: of('on-heat'),
    good: of('good'),
    bad: of('bad'),
    warn: of('warn'),
  };
}

const calm = () => matchMedia('(prefers-reduced-motion: reduce)').matches;

function base(option, look) {
  const axis = (given) =>
    given && {
      ...given,
      axisLine: { lineStyle: { color: look.line }, ...given.axisLine },
      axisTick: { show: false, ...given.axisTick },
      axisLabel: { color: look.muted, fontSize: 11, hideOverlap: true, ...given.axisLabel },
      splitLine: { lineStyle: { color: look.line, opacity: 0.7 }, ...given.splitLine },
      nameTextStyle: { color: look.muted, fontSize: 11, ...given.nameTextStyle },
    };
  const each = (value) => (Array.isArray(value) ? value.map(axis) : axis(value));
  return {
    animation: !calm(),
    animationDuration: 350,
    animationDurationUpdate: 250,
    color: look.series,
    textStyle: { fontFamily: FONT, color: look.ink },
    ...option,
    ...(option.xAxis && { xAxis: each(option.xAxis) }),
    ...(option.yAxis && { yAxis: each(option.yAxis) }),
    ...(option.grid !== null && {
      grid: {
        left: 8,
        right: 16,
        top: 16,
        bottom: 8,
        outerBoundsMode: 'same',
        outerBoundsContain: 'axisLabel',
        ...option.grid,
      },
    }),
    ...(option.legend && {
      legend: {
        type: 'scroll',
        icon: 'roundRect',
        itemWidth: 10,
        itemHeight: 10,
        itemGap: 16,
        left: 0,
        top: 0,
        textStyle: { color: look.muted, fontSize: 12 },
        inactiveColor: look.line,
        ...option.legend,
      },
    }),
    ...(option.tooltip && {
      tooltip: {
        confine: true,
        appendTo: undefined,
        backgroundColor: look.card,
        borderColor: look.line,
        borderWidth: 1,
        padding: 0,
        className: 'tip',
        textStyle: { color: look.ink, fontFamily: FONT, fontSize: 12 },
        transitionDuration: 0,
        shadowBlur: 0,
        axisPointer: {
          lineStyle: { color: look.muted, type: 'dashed' },
          shadowStyle: { color: look.muted, opacity: 0.08 },
        },
        ...option.tooltip,
      },
    }),
  };
}

/** Draws into an element that has a size, and replaces its content; for a print at once, and as it is in the end. */
export function draw(element, option, onclick, isPrint = false) {
  const look = colours();
  const chart = getInstanceByDom(element) ?? init(element);
  const whole = base(option(look), look);
  chart.setOption(isPrint ? { ...whole, animation: false } : whole, { notMerge: true });
  chart.resize();
  if (isPrint) chart.getZr().refreshImmediately();
  chart.off('click');
  if (onclick) chart.on('click', onclick);
  if (!element.dataset.watched) {
    element.dataset.watched = 'true';
    new ResizeObserver(() => chart.isDisposed() || chart.resize({ animation: { duration: 0 } })).observe(element);
  }
}

export const dispose = (element) => getInstanceByDom(element)?.dispose();

/** Splits a string into lines that fit a width, with the font of a context. */
function wrapped(context, text, width) {
  const lines = [];
  let line = '';
  for (const word of text.split(' ')) {
    const longer = line ? `${line} ${word}` : word;
    if (line && context.measureText(longer).width > width) {
      lines.push(line);
      line = word;
    } else line = longer;
  }
  return [...lines, line];
}

/** Renders a chart with its title, and lines that say what it is of, as a picture of twice the resolution of the screen. */
export async function picture(option, { title, lines, width, height }) {
  const look = colours();
  const canvas = document.createElement('canvas');
  const context = canvas.getContext('2d');
  context.font = `12px ${FONT}`;
  const notes = lines.flatMap((line) => wrapped(context, line, width));
  const top = 40 + notes.length * 16;
  const space = document.createElement('div');
  space.className = 'offscreen';
  space.style.width = `${width}px`;
  space.style.height = `${height}px`;
  document.body.append(space);
  const chart = init(space, null, { devicePixelRatio: 2 });
  chart.setOption({ ...base(option(look), look), animation: false });
  const drawn = chart.renderToCanvas({ pixelRatio: 2, backgroundColor: look.card });
  canvas.width = (width + 32) * 2;
  canvas.height = (height + top + 16) * 2;
  context.scale(2, 2);
  context.fillStyle = look.card;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = look.ink;
  context.font = `600 16px ${FONT}`;
  context.fillText(title, 16, 28);
  context.fillStyle = look.muted;
  context.font = `12px ${FONT}`;
  for (const [place, note] of notes.entries()) context.fillText(note, 16, 46 + place * 16);
  context.drawImage(drawn, 16, top, width, height);
  chart.dispose();
  space.remove();
  return new Promise((resolve) => {
    canvas.toBlob(resolve, 'image/png');
  });
}
