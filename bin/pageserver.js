#!/usr/bin/env node
// Starts the pageserver. `neon start` does this with a Node that is new enough; by hand an older one may come along.
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const [major, minor] = process.versions.node.split(".").map(Number);
const program = join(dirname(dirname(fileURLToPath(import.meta.url))), "dist", "pageserver", "program.js");

if (major < 22 || (major === 22 && minor < 15))
  fail(`the pageserver needs Node.js 22.15 or newer; this is ${process.version}.`);
else if (!existsSync(program)) fail("the pageserver is not built: run `npm run build` first.");
else await import(program).then(({ main }) => main(process.argv.slice(2)));

function fail(message) {
  console.error(`error: ${message}`);
  process.exitCode = 1;
}
