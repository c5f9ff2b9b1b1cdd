// Measures the time until the dashboard shows its first numbers over a large history, each time in a new tab with the key:
// `node benches/first_view.mjs DATA_DIR [DAYS]...`, after
// `echopilot demo --data-dir DATA_DIR --events 100000000 --users 1000000 --days 365`.

import { address, visitor } from '../tests/browser/dashboard.mjs';
import { openBrowser, Server } from '../tests/browser/harness.mjs';

const ROUNDS = 9;
const [folder, ...windows] = process.argv.slice(2);
const server = new Server();
server.folder = folder;
server.settings = { ECHOPILOT_RAW_RETENTION_DAYS: '400' };
await server.up('127.0.0.1:0');
const browser = await openBrowser();
try {
  for (const days of windows.length ? windows : ['30', '365']) {
    const context = await visitor(browser);
    // The number is painted when the second frame after its arrival begins.
    await context.addInitScript(() => {
      window.painted = new Promise((resolve) => {
        new MutationObserver((_, observer) => {
          if (!document.querySelector('[data-card="mau"] [data-value]')) return;
          observer.disconnect();
          requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now())));
        }).observe(document, { childList: true, subtree: true });
      });
    });
    const times = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      const page = await context.newPage();
      await page.goto(address(server, 'overview', { days }));
      times.push(Math.round(await page.evaluate(() => window.painted)));
      await page.close();
    }
    const sorted = times.toSorted((a, b) => a - b);
    console.log(`${days} days: first ${times[0]} ms, median ${sorted[ROUNDS >> 1]} ms (${sorted.join(', ')})`);
    await context.close();
  }
} finally {
  await browser.close();
  await server.down();
}
