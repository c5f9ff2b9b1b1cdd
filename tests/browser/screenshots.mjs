// Takes screenshots of every view for review: node screenshots.mjs FOLDER [VIEW...]; or those of the README: --readme
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { command, getJson, open, VIEWS, visitor } from './dashboard.mjs';
import { openBrowser, Server } from './harness.mjs';

/** The pictures of the README: view, colours and size. */
const README = [
  ['overview', 'light', [1300, 1858]],
  ['retention', 'dark', [1240, 830]],
];
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

const prepare = (data) =>
  command(data, 'demo', '--events', '300000', '--days', '120', '--users', '3000', '--features', '24');
const [browser, server] = await Promise.all([openBrowser(), Server.start({ prepare })]);

async function shoot(view, colorScheme, [width, height], { file, fullPage, given = OWN[view] }) {
  const context = await visitor(browser, { colorScheme, viewport: { width, height }, reducedMotion: 'reduce' });
  const page = await open(context, server, view, given);
  await page.screenshot({ path: file, fullPage });
  await context.close();
}

const [, , folder, ...chosen] = process.argv;
if (folder === '--readme') {
  const { last_day: end } = await getJson(server, '/api/analytics/status');
  for (const [view, colorScheme, size] of README) {
    const file = fileURLToPath(new URL(`../../static/readme/${view}.png`, import.meta.url));
    await shoot(view, colorScheme, size, { file, given: { ...OWN[view], end } });
  }
} else {
  await mkdir(folder, { recursive: true });
  for (const [size, dimensions] of Object.entries(SIZES))
    for (const colorScheme of ['light', 'dark'])
      for (const view of chosen.length ? chosen : VIEWS) {
        const file = path.join(folder, `${view}-${size}-${colorScheme}.png`);
        await shoot(view, colorScheme, dimensions, { file, fullPage: size === 'phone' });
      }
}
await browser.close();
await server.stop();
