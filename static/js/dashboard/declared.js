// Names to choose from: the event types in use, and what the tracking plan declares, also before its first event.
import { get, hasToken } from './api.js';
import { FILTER } from './texts.js';
import { suggestions } from './values.js';

/** The event types of every store. */
const BASIC = Object.keys(FILTER.types);

let declared = null;

const names = (rules) => (rules ?? []).map(({ name }) => name);

/** The names of the plan: `{types, features}`, where those of conversions come first. Fetched once. */
function planNames() {
  declared ??= get('plan').then(
    ({ plan }) => ({
      types: names(plan.event_types),
      features: [...new Set([...names(plan.conversions), ...names(plan.features)])],
    }),
    () => {
      declared = null;
      return { types: [], features: [] };
    },
  );
  return declared;
}

/** The event types beyond those of every store: declared ones, and those in use. The page of a share link asks for none. */
export async function moreTypes() {
  if (hasToken()) return [];
  const [{ types }, used] = await Promise.all([planNames(), suggestions('event_type')]);
  return [...new Set([...types, ...used.map(({ value }) => value)])].filter((type) => !BASIC.includes(type));
}

/** All event types. */
export const eventTypes = async () => [...BASIC, ...(await moreTypes())];

/** The features that the plan declares. */
export const declaredFeatures = async () => (await planNames()).features;
