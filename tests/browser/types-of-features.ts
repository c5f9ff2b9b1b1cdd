// An application that lists its features.
export {};

declare global {
  interface EchoPilotFeatures {
    signup: { plan: 'free' | 'team' };
    search: EchoPilotMetadata;
  }
}

EchoPilot.track('action', 'signup', { plan: 'team' });
EchoPilot.track('action', 'search', { words: 3 });
EchoPilot.page('search');
// @ts-expect-error: no such feature
EchoPilot.track('action', 'sing_up');
// @ts-expect-error: no such plan
EchoPilot.track('action', 'signup', { plan: 'gold' });
