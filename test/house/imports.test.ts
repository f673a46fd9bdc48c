/** The folders of src import only in the allowed direction. */
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { dirname, join, relative, resolve, sep } from "node:path";
import { test } from "node:test";

const SOURCE = resolve(import.meta.dirname, "../../src");

/** What each folder may import, beside itself. */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  base: [],
  postgres: ["base"],
  pgwire: ["base"],
  storage: ["base"],
  pageserver: ["base", "postgres", "pgwire", "storage"],
  client: ["base", "pgwire"],
  repository: ["base"],
  compute: ["base", "postgres", "repository", "client"],
  commands: ["base", "repository", "compute", "client"],
};

const IMPORT = /(?:\bfrom\s+|\bimport\s*\(\s*|\bimport\s+)"(\.[^"]+)"/g;

/** Pairs of files: who imports whom, as paths relative to src. */
function readImports(): { file: string; target: string }[] {
  const files = readdirSync(SOURCE, { recursive: true, encoding: "utf8" }).filter((name) =>
    name.endsWith(".ts"),
  );
  return files.flatMap((file) => {
    const text = readFileSync(join(SOURCE, file), "utf8");
    return [...text.matchAll(IMPORT)].map((match) => ({
      file,
      target: relative(SOURCE, resolve(SOURCE, dirname(file), match[1] ?? "")),
    }));
  });
}

function folderOf(path: string): string {
  return path.split(sep)[0] ?? "";
}

function violations(imports: readonly { file: string; target: string }[]): string[] {
  return imports
    .filter(({ file, target }) => {
      const from = folderOf(file);
      const to = folderOf(target);
      return from !== to && !(ALLOWED[from] ?? []).includes(to);
    })
    .map(({ file, target }) => `${file} imports ${target}`);
}

test("folders import only what they may", () => {
  const imports = readImports();
  assert.ok(
    imports.length > 100,
    `only ${imports.length} imports were found: the test looks in the wrong place`,
  );
  assert.deepEqual(violations(imports), []);
});

test("the command line does not reach into the server", () => {
  assert.deepEqual(
    violations([{ file: join("commands", "x.ts"), target: join("storage", "store.ts") }]).length,
    1,
  );
});

test("every folder of src has its line", () => {
  const folders = readdirSync(SOURCE, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  assert.deepEqual(folders.map((entry) => entry.name).sort(), Object.keys(ALLOWED).sort());
});
