// A number with its change, as a card.
import { h } from '../dom.js';
import { change } from '../format.js';

/** Relative changes below this are shown as none. */
const FLAT = 0.0005;

/**
 * Makes a card. `text` is the number as it is shown. `difference` is its relative change, or null; `explained` is the tip
 * of the change, and `spoken` what a screen reader says after it. `picture` is below the hint.
 */
export function card({ name, title, hint, value, text, difference, explained, spoken, picture }) {
  const direction = difference > FLAT ? 'up' : difference < -FLAT ? 'down' : 'flat';
  return h(
    'div',
    { class: 'card', 'data-card': name },
    h('h3', { text: title }),
    h(
      'div',
      { class: 'card-row' },
      h('strong', { class: 'figure-number', 'data-value': value, text }),
      difference !== null &&
        h(
          'span',
          { class: `delta ${direction}`, 'data-delta': difference, title: explained },
          h('span', { 'aria-hidden': 'true', text: { up: '▲ ', down: '▼ ', flat: '' }[direction] }),
          change(difference),
          spoken && h('span', { class: 'unseen', text: spoken }),
        ),
    ),
    h('p', { class: 'hint', text: hint }),
    picture,
  );
}
