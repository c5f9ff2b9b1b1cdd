// The views that are loaded when the first of them is opened, in a file of their own.
import { explorer } from './explorer.js';
import { reports } from './reports.js';
import { trends } from './trends.js';
import { web } from './web.js';

export { askSave, stateOf } from '../components/saved.js';
export { shared } from './shared.js';
export const MORE = { trends, web, explorer, reports };
