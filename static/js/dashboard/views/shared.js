// The page of a share link: one report or board, read-only, without the dashboard's frame.
import { get, setToken } from '../api.js';
import { setAnnotations } from '../components/annotations.js';
import { fill, h, icon, named, plain } from '../dom.js';
import { longDay } from '../format.js';
import { SHARED } from '../texts.js';
import { showReports } from './reports.js';

/** Shows what the link is bound to. */
export async function shared(main, token, contextOf) {
  setToken(token);
  document.body.classList.add('shared');
  let found;
  try {
    found = await get('shared');
  } catch (error) {
    const isLink = [401, 403, 404].includes(error.status);
    fill(
      main,
      h(
        'div',
        { class: 'message bad', role: 'alert' },
        icon('alert'),
        h(
          'div',
          {},
          h('strong', { text: isLink ? SHARED.invalid : SHARED.noResponse }),
          h('p', {
            text: isLink ? SHARED.expired : error.message,
          }),
        ),
      ),
    );
    return;
  }
  const { report, reports, annotations, expires_at: end } = found;
  setAnnotations(annotations);
  document.title = SHARED.title(plain(report.name));
  const below = h('div', { class: 'grid board' });
  fill(
    main,
    h(
      'div',
      { class: 'head' },
      h('h1', {}, named(report.name)),
      report.description && h('p', { class: 'lead' }, h('bdi', { text: plain(report.description) })),
      h('p', { class: 'span hint', text: SHARED.until(longDay(end.slice(0, 10))) }),
    ),
    below,
  );
  const isBoard = report.kind === 'board';
  showReports(isBoard ? reports : [report], contextOf(), below, isBoard ? () => null : undefined);
}
