// How soon the dashboard shows its first numbers over a large history: `node benches/first_view.mjs DATA_DIR [DAYS]...`, after
// `echopilot demo --data-dir DATA_DIR --events 100000000 --users 1000000 --days 365`. Each time a new tab, the key already given.
import { Server, openBrowser } from '../tests/browser/harness.mjs';
import { address, visitor } from '../tests/browser/dashboard.mjs';

const ROUNDS = 9;
const [folder, ...windows] = process.argv.slice(2);
const server = new Server();
server.folder = folder;
server.settings = { ECHOPILOT_RAW_RETENTION_DAYS: '400' };
await server.up('127.0.0.1:0');
const browser = await openBrowser();
try {
  for (const days of windows.length ? windows : ['30', '365']) {
    const context = await visitor(browser, server);
    const times = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      const page = await context.newPage();
      await page.goto(address(server, 'overview', { days }));
      await page.locator('[data-card="mau"] [data-value]').waitFor();
      times.push(Math.round(await page.evaluate(() => performance.now())));
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
