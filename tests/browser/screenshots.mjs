// Takes screenshots of every view for review: node screenshots.mjs FOLDER [VIEW...]
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { command, open, VIEWS, visitor } from './dashboard.mjs';
import { openBrowser, Server } from './harness.mjs';

const SIZES = { phone: [390, 844], laptop: [1366, 860], wide: [1920, 1080] };
const OWN = {
  funnel: {
    q: {
      steps: [
        { feature: 'dashboard' },
        { feature: 'workflow_builder' },
        { event_type: 'action', feature: 'reports' },
        { event_type: 'conversion' },
      ],
      within: '7d',
    },
  },
  retention: { days: 90 },
  lifecycle: { days: 90 },
  experiments: {
    days: 60,
    q: { exposure: { event_type: 'page_view' }, variant: 'plan', goal: { event_type: 'conversion' } },
  },
};

const [, , folder, ...chosen] = process.argv;
await mkdir(folder, { recursive: true });
const prepare = (data) =>
  command(data, 'demo', '--events', '300000', '--days', '120', '--users', '3000', '--features', '24');
const [browser, server] = await Promise.all([openBrowser(), Server.start({ prepare })]);
for (const [size, [width, height]] of Object.entries(SIZES)) {
  for (const colorScheme of ['light', 'dark']) {
    const context = await visitor(browser, {
      colorScheme,
      viewport: { width, height },
      reducedMotion: 'reduce',
    });
    for (const view of chosen.length ? chosen : VIEWS) {
      const page = await open(context, server, view, OWN[view]);
      await page.screenshot({
        path: path.join(folder, `${view}-${size}-${colorScheme}.png`),
        fullPage: size === 'phone',
      });
      await page.close();
    }
    await context.close();
  }
}
await browser.close();
await server.stop();
