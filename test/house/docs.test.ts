/** The documents are one web without loose ends: links lead somewhere, every page is found, what is named exists. */
import assert from "node:assert/strict";
import { dirname, posix } from "node:path";
import { test } from "node:test";
import { Kind } from "../../src/pageserver/ingest/keyspace.ts";
import { parseOptions } from "../../src/pageserver/options.ts";
import { ROOT, documents, exists, filesBelow, packageSection, read } from "./project-files.ts";

interface Mention {
  readonly document: string;
  readonly target: string;
}

/** Links of a Markdown text, without those to other sites. */
function linksOf(document: string, text: string): Mention[] {
  const links = [...withoutCode(text).matchAll(/\]\(([^)\s]+)\)/g)].map((match) => match[1] ?? "");
  return links.filter((target) => !/^[a-z]+:/.test(target)).map((target) => ({ document, target }));
}

function withoutCode(text: string): string {
  return text.replace(/^```[^]*?^```$/gm, "").replace(/`[^`\n]*`/g, "``");
}

/** The anchors that a site such as GitHub makes of the headings. */
function anchorsOf(text: string): Set<string> {
  const headings = [...withoutFences(text).matchAll(/^#+ (.*)$/gm)].map((match) => match[1] ?? "");
  return new Set(
    headings.map((heading) =>
      heading
        .toLowerCase()
        .replace(/[^\p{L}\p{N} _-]/gu, "")
        .replaceAll(" ", "-"),
    ),
  );
}

function withoutFences(text: string): string {
  return text.replace(/^```[^]*?^```$/gm, "");
}

function pathOf({ document, target }: Mention): string {
  const path = target.replace(/#.*/, "");
  return path === "" ? document : posix.join(posix.dirname(document), path);
}

/** Links that lead nowhere. */
function brokenLinks(mentions: readonly Mention[]): string[] {
  return mentions
    .filter((mention) => {
      const path = pathOf(mention);
      if (!exists(path)) return true;
      const anchor = mention.target.split("#")[1];
      return anchor !== undefined && !anchorsOf(read(path)).has(anchor);
    })
    .map(({ document, target }) => `${document}: ${target}`);
}

const FOLDERS = "src|test|bench|docs|scripts|bin|templates|\\.ci";
/** In backquotes: a path from the project's root (`src/x/{a,b}.ts`, `test/storage/`), or the bare name of a source file. */
const NAMED_PATH = new RegExp(`^(?:${FOLDERS})(?:/[\\w.{},*-]*)+$`);
/** Postgres has a folder src, too. */
const POSTGRES_PATH = /^src\/(?:backend|common|include)\//;
const NAMED_FILE = /^[a-z][a-z0-9-]*(?:\.test|\.bench)?\.(?:ts|md)$/;

/** `a/{b,c}.ts` as `a/b.ts` and `a/c.ts`. */
function expandBraces(path: string): string[] {
  const match = /^(.*)\{([^}]*)\}(.*)$/.exec(path);
  if (match === null) return [path];
  return (match[2] ?? "").split(",").flatMap((part) => expandBraces(`${match[1]}${part}${match[3]}`));
}

/** Files and folders that a document names in backquotes. */
function namedFiles(document: string, text: string): Mention[] {
  const quoted = [...withoutFences(text).matchAll(/`([^`\n]+)`/g)].map((match) => match[1] ?? "");
  return quoted
    .filter((word) => (NAMED_PATH.test(word) && !POSTGRES_PATH.test(word)) || NAMED_FILE.test(word))
    .flatMap(expandBraces)
    .map((target) => ({ document, target }));
}

/** Mentioned files that do not exist. A path may also be relative to `src/`; a bare name may be anywhere. */
function missingFiles(mentions: readonly Mention[]): string[] {
  const bareNames = new Set(
    ["src", "test", "bench", "scripts", "docs"].flatMap((folder) =>
      [...filesBelow(folder, ".ts"), ...filesBelow(folder, ".md")].map((path) => posix.basename(path)),
    ),
  );
  return mentions
    .filter(({ target }) => {
      if (!target.includes("/")) return !bareNames.has(target);
      // Of a pattern such as `docs/decisions/*.md` the folder must be there.
      return !exists(target.includes("*") ? dirname(target) : target);
    })
    .map(({ document, target }) => `${document}: ${target}`);
}

test("links in documents lead somewhere", () => {
  const mentions = documents().flatMap((document) => linksOf(document, read(document)));
  assert.ok(mentions.length > 30, `only ${mentions.length} links were found`);
  assert.deepEqual(brokenLinks(mentions), []);
});

test("every page is reached from docs/README.md", () => {
  const reached = new Set<string>();
  const open = ["docs/README.md"];
  for (let document = open.pop(); document !== undefined; document = open.pop()) {
    if (reached.has(document)) continue;
    reached.add(document);
    open.push(
      ...linksOf(document, read(document))
        .map(pathOf)
        .filter((path) => path.endsWith(".md") && exists(path)),
    );
  }
  assert.deepEqual(
    documents().filter((document) => !reached.has(document)),
    [],
  );
});

test("documents name only files that exist", () => {
  const mentions = documents().flatMap((document) => namedFiles(document, read(document)));
  assert.ok(mentions.length > 100, `only ${mentions.length} files are named`);
  assert.deepEqual(missingFiles(mentions), []);
});

test("documents name only npm scripts that exist", () => {
  const scripts = packageSection("scripts");
  const named = documents().flatMap((document) =>
    [...read(document).matchAll(/npm run ([a-z:]+)/g)].map((match) => match[1] ?? ""),
  );
  assert.ok(named.length > 3);
  assert.deepEqual(
    named.filter((name) => !Object.hasOwn(scripts, name)),
    [],
  );
});

test("source files name only documents that exist", () => {
  const mentions = [...filesBelow("src", ".ts"), ...filesBelow("scripts", ".ts")].flatMap((document) =>
    [...read(document).matchAll(/\bdocs\/[\w/-]+\.md\b/g)].map(([target]) => ({ document, target })),
  );
  assert.ok(mentions.length > 3);
  assert.deepEqual(missingFiles(mentions), []);
});

test("keyspace.md lists the kinds of keys", () => {
  const kinds = [...read("docs/formats/keyspace.md").matchAll(/^\| 0x([0-9a-f]{2}) \|/gm)].map((row) =>
    Number.parseInt(row[1] ?? "", 16),
  );
  assert.deepEqual(kinds, Object.values(Kind));
});

test("settings.md lists the settings of the pageserver", () => {
  const section = /^## The pageserver[^]*?^## /m.exec(read("docs/settings.md"))?.[0] ?? "";
  const listed = [...section.matchAll(/^\| `([a-z_]+)` \|/gm)].map((row) => row[1] ?? "");
  let message = "";
  try {
    parseOptions("nonsense = 1", { workdir: "/", path: "x" });
  } catch (error) {
    message = error instanceof Error ? error.message : "";
  }
  const known = /there are (.*)$/.exec(message)?.[1]?.split(", ") ?? [];
  assert.ok(known.length > 3, message);
  assert.deepEqual(listed.sort(), known.sort());
});

test("the map is short enough to be read", () => {
  assert.ok(read("docs/ARCHITECTURE.md").split("\n").length < 250);
});

test("these checks find what they look for", () => {
  const text =
    "# A b\n[x](nowhere.md) [y](#a-b) [z](#c) [w](https://example.com/x.md)\n`src/nothing.ts` `no-such.ts` `src/base/`";
  const links = linksOf("docs/x.md", text);
  assert.deepEqual(
    links.map(({ target }) => target),
    ["nowhere.md", "#a-b", "#c"],
  );
  assert.deepEqual(anchorsOf("# A `b`, c\n```\n# no\n```\n"), new Set(["a-b-c"]));
  assert.deepEqual(
    brokenLinks([
      { document: "README.md", target: "nowhere.md" },
      { document: "README.md", target: "LICENSE" },
    ]),
    ["README.md: nowhere.md"],
  );
  assert.deepEqual(missingFiles(namedFiles("x", text)), ["x: src/nothing.ts", "x: no-such.ts"]);
  assert.deepEqual(expandBraces("a/{b,c}.ts"), ["a/b.ts", "a/c.ts"]);
  assert.ok(ROOT.length > 1);
});
