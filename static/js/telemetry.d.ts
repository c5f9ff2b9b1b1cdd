/**
 * Types of EchoPilot's client, `static/js/telemetry.js`.
 *
 * An application can name its features and what belongs to each; then names that are not in the list are errors:
 *
 *     declare global {
 *       interface EchoPilotFeatures {
 *         signup: { plan: 'free' | 'team' };
 *         search: EchoPilotMetadata;
 *       }
 *     }
 */

export {};

declare global {
  /** An application's features, by name, and their metadata. Empty: any name, any metadata. */
  interface EchoPilotFeatures {}

  type EchoPilotEventType = 'page_view' | 'action' | 'conversion';

  /**
   * What an application adds to an event: at most 16 KB as JSON, 100 keys, depth 5. No personal data. A value that is no
   * object (a text, a number, a list, a date) would be sent as its `value`; of more than 16 KB the largest values are left out.
   */
  type EchoPilotMetadata = Record<string, unknown>;

  type EchoPilotFeature = keyof EchoPilotFeatures extends never ? string : Extract<keyof EchoPilotFeatures, string>;

  type EchoPilotMetadataOf<Feature> = Feature extends keyof EchoPilotFeatures
    ? EchoPilotFeatures[Feature]
    : EchoPilotMetadata;

  /** Each is also an attribute of the script's tag: `data-page-views="off"`. */
  interface EchoPilotSettings {
    /** Where events go; by default the server that the script came from. */
    endpoint?: string;
    /** Who uses the page, as `setUserId`. */
    userId?: string | null;
    /** Page views by themselves; default on. */
    pageViews?: boolean | 'on' | 'off';
    /** Clicks and sent forms by `data-track` and `data-action`; default on. */
    clicks?: boolean | 'on' | 'off';
    /** The part of the address after `#` is a page of its own; default off. */
    hash?: boolean | 'on' | 'off';
    /** `history.replaceState` is a page view too; default off. */
    replaceState?: boolean | 'on' | 'off';
    /** A visitor whose browser sends Global Privacy Control or Do Not Track: `anonymous` (default), or not counted at all. */
    gpc?: 'anonymous' | 'off';
  }

  interface EchoPilotClient {
    /** Records an event. Never throws. */
    track<Feature extends EchoPilotFeature>(
      type: EchoPilotEventType,
      feature?: Feature | null,
      metadata?: EchoPilotMetadataOf<Feature>,
    ): void;
    /** Records a page view, by default of the page's path. */
    page(feature?: EchoPilotFeature): void;
    /** Events from now on are this user's, in all tabs and on later pages too; `null`: anonymous again. */
    setUserId(id: string | null): void;
    /** Changes settings. */
    init(settings: EchoPilotSettings): void;
    /** Sends now; resolves when all is sent, or cannot be at the moment. */
    flush(): Promise<void>;
    /** Forgets the visitor and what was not sent yet, and records nothing in this browser from now on. */
    optOut(): Promise<void>;
    /** Undoes `optOut`. */
    optIn(): void;
    /** Makes calls as a stub keeps them, so that code which pushes to its list may run early or late. */
    q: { push(...calls: unknown[][]): void };
  }

  /** Calls made before the script is there: `window.EchoPilot ||= { q: [] }; EchoPilot.q.push(['track', 'action', 'x'])`, or by the stub's methods. */
  interface EchoPilotStub extends Partial<Omit<EchoPilotClient, 'q'>> {
    q: unknown[][];
  }

  const EchoPilot: EchoPilotClient;

  interface Window {
    EchoPilot: EchoPilotClient | EchoPilotStub | undefined;
  }
}
