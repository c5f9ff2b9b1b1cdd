// The link to the page of a user.
import { h, named } from '../dom.js';
import { write } from '../state.js';

export const userLink = (state, user) =>
  h('a', { href: write({ ...state, view: 'explorer', own: { tab: 'user', user } }) }, named(user));
