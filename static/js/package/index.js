// The client as an ES module: its functions, which do nothing where there is no window, as on a server.
import './client.js';

const call =
  (name) =>
  (...values) => {
    const client = globalThis.window?.EchoPilot;
    return client?.[name] ? client[name](...values) : Promise.resolve();
  };

export const track = call('track');
export const page = call('page');
export const setUserId = call('setUserId');
export const init = call('init');
export const flush = call('flush');
export const optOut = call('optOut');
export const optIn = call('optIn');
