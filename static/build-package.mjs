// Makes the npm package of the client, in the folder `package` or another one: `npm publish` and `npm pack` take it.
import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const HERE = new URL('./', import.meta.url);
const folder = process.argv[2] ?? path.join(import.meta.dirname, 'package');
const TARGET = pathToFileURL(`${folder}/`);
/** The import of the second file from the server; in the package it is one from the same folder. */
const IMPORT = /import\(`[^`]*-web\.js`\)/;

const read = (path) => readFile(new URL(path, HERE), 'utf8');
const write = (name, content) => writeFile(new URL(name, TARGET), content);
const copy = (path, name) => cp(new URL(path, HERE), new URL(name, TARGET), { recursive: true });

await rm(TARGET, { recursive: true, force: true });
await mkdir(TARGET, { recursive: true });
await copy('js/package/', './');
for (const name of ['telemetry', 'telemetry-web', 'telemetry-vitals']) await copy(`js/${name}.min.js`, `${name}.js`);
await copy('js/telemetry.d.ts', 'telemetry.d.ts');
await copy('../LICENSE', 'LICENSE');
await copy('node_modules/web-vitals/LICENSE', 'LICENSE-web-vitals');

const client = await read('js/telemetry.min.js');
if (!IMPORT.test(client)) throw new Error('the client does not import its second file as this expects');
const module = client.replace(IMPORT, "import('./telemetry-web.js')");
await write('client.js', `if (typeof window !== 'undefined') {\n${module}\n}\n`);

const [, version] = /^version = "(.+)"/m.exec(await read('../Cargo.toml'));
await write(
  'package.json',
  `${JSON.stringify({ version, ...JSON.parse(await read('js/package/package.json')) }, null, 2)}\n`,
);
console.log(`${folder}: version ${version}`);
