/**
 * Types of EchoPilot's client, `static/js/telemetry.js`.
 *
 * An application can list its features with their metadata; then other names are errors:
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
   * The metadata of an event: at most 16 KB as JSON, 100 keys, depth 5. No personal data. A value that is not an object (a
   * string, a number, a list, a date) is sent as `value`; above 16 KB the largest values are left out.
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
    /** The user, as with `setUserId`. */
    userId?: string | null;
    /**
     * A random id for a visitor without a user: kept for the tab (`session`) or in the browser (`persistent`); default off.
     * Never for a visitor with Global Privacy Control or Do Not Track, or who opted out, which deletes it.
     */
    visitors?: 'off' | 'session' | 'persistent';
    /**
     * The first page view of a visit has `utm_*` and `ref` of the query string, the origin of the referrer, the language, and
     * the classes of device and viewport; default on.
     */
    campaigns?: boolean | 'on' | 'off';
    /** Automatic page views; default on. */
    pageViews?: boolean | 'on' | 'off';
    /** Clicks and submitted forms, by `data-track` and `data-action`; default on. */
    clicks?: boolean | 'on' | 'off';
    /** The part of the address after `#` is a separate page; default off. */
    hash?: boolean | 'on' | 'off';
    /** `history.replaceState` is also a page view; default off. */
    replaceState?: boolean | 'on' | 'off';
    /** A visitor whose browser sends Global Privacy Control or Do Not Track: `anonymous` (default), or not counted at all. */
    gpc?: 'anonymous' | 'off';
    /** Links to other sites, as `outbound_link`; default off. These load a second file, `telemetry-web.js`. */
    webOutbound?: boolean | 'on' | 'off';
    /** Links to files, as `download`; default off. */
    webDownloads?: boolean | 'on' | 'off';
    /** Submitted forms without `data-track`, by their `name` or `id`; default off. */
    webForms?: boolean | 'on' | 'off';
    /** Pages with status 404, as `not_found`; default off. */
    webNotFound?: boolean | 'on' | 'off';
    /** The parts of a page that were seen, as `scroll` with 25, 50, 75 and 100 percent; default off. */
    webScroll?: boolean | 'on' | 'off';
    /** Seconds for which a page was visible and used, as `engagement`; default off. */
    webEngagement?: boolean | 'on' | 'off';
    /** Web Vitals, as `web_vital`; default off. They load a third file, `telemetry-vitals.js`. */
    webVitals?: boolean | 'on' | 'off';
    /** Uncaught errors, as `error` with their message and place; default off. */
    webErrors?: boolean | 'on' | 'off';
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
    /** Sets the user of later events, in all tabs and on later pages; `null` makes them anonymous again. */
    setUserId(id: string | null): void;
    /** Changes settings. */
    init(settings: EchoPilotSettings): void;
    /** Sends now; resolves when everything is sent, or cannot be sent at the moment. */
    flush(): Promise<void>;
    /** Deletes the user and the events that were not sent yet, and records nothing in this browser from now on. */
    optOut(): Promise<void>;
    /** Undoes `optOut`. */
    optIn(): void;
    /** Makes calls in the form in which a stub queues them, so that code may push to the queue at any time. */
    q: { push(...calls: unknown[][]): void };
  }

  /** Queue of calls made before the script is loaded: `window.EchoPilot ||= { q: [] }; EchoPilot.q.push(['track', 'action', 'x'])`, or by the stub's methods. */
  interface EchoPilotStub extends Partial<Omit<EchoPilotClient, 'q'>> {
    q: unknown[][];
  }

  const EchoPilot: EchoPilotClient;

  interface Window {
    EchoPilot: EchoPilotClient | EchoPilotStub | undefined;
  }
}
