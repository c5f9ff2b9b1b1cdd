// Calls that the declarations must accept and reject; checked by `tsc`.
export {};

EchoPilot.track('action', 'button_click', { button_id: 'submit-btn', count: 2 });
EchoPilot.track('page_view');
EchoPilot.track('conversion', null);
EchoPilot.page('somewhere');
EchoPilot.setUserId(null);
EchoPilot.init({ endpoint: '/echo', pageViews: false, hash: 'on', gpc: 'off' });
EchoPilot.init({ visitors: 'session', campaigns: false, webErrors: true, webVitals: 'on', webNotFound: 'off' });
const sent: Promise<void> = EchoPilot.flush();
void sent.then(() => EchoPilot.optOut()).then(() => EchoPilot.optIn());
window.EchoPilot ||= { q: [] };
window.EchoPilot.q.push(['setUserId', 'early']);
if ('q' in window.EchoPilot) window.EchoPilot.q.push(['track', 'action', 'early']);

// @ts-expect-error: no such type of event
EchoPilot.track('tap', 'x');
// @ts-expect-error: metadata is an object
EchoPilot.track('action', 'x', 'text');
// @ts-expect-error: an id is a string
EchoPilot.setUserId(7);
// @ts-expect-error: no such setting
EchoPilot.init({ endpint: '/echo' });
// @ts-expect-error: daily visitors are a setting of the server
EchoPilot.init({ visitors: 'daily' });
// @ts-expect-error: the client is made by the script
EchoPilot = undefined;
