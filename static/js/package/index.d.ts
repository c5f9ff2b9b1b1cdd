/**
 * EchoPilot's client as an ES module. Importing it starts the client; call `init` with the address of the server before
 * anything else. On a server, where there is no `window`, every call does nothing.
 *
 *     import { init, track } from 'echopilot-client';
 *
 *     init({ endpoint: 'https://analytics.example/api/analytics/event' });
 *     track('conversion', 'signup', { plan: 'team' });
 */
/// <reference path="./telemetry.d.ts" />

export const track: EchoPilotClient['track'];
export const page: EchoPilotClient['page'];
export const setUserId: EchoPilotClient['setUserId'];
export const init: EchoPilotClient['init'];
export const flush: EchoPilotClient['flush'];
export const optOut: EchoPilotClient['optOut'];
export const optIn: EchoPilotClient['optIn'];
