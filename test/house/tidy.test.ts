/** Style as a test. Exceptions are listed by name; a list may only get shorter, so one that is not needed is an error. */
import assert from "node:assert/strict";
import { posix } from "node:path";
import { test } from "node:test";
import { filesBelow, packageSection, read } from "./project-files.ts";

const FILE_LINES_MAX = 500;

/** Files above the limit, with the length that they may not exceed. Split them and remove the line. */
const LONG_FILES: Readonly<Record<string, number>> = {};
/** Files that may write to the console, and how: everything else uses `src/commands/shared/output.ts` or a log. */
const CONSOLE_FILES: readonly string[] = [
  "src/commands/shared/base-command.ts",
  "src/commands/shared/main.ts",
];
/** Packages in package.json that nothing imports. */
const UNIMPORTED_PACKAGES: readonly string[] = [];

const SOURCES = filesBelow("src", ".ts");
const ALL = ["src", "test", "bench", "scripts"].flatMap((folder) => filesBelow(folder, ".ts"));

/** What remains of `found` without the exceptions, and exceptions that are not needed. */
function unexcused(
  found: readonly string[],
  exceptions: readonly string[],
): { wrong: string[]; needless: string[] } {
  return {
    wrong: found.filter((file) => !exceptions.includes(file)),
    needless: exceptions.filter((file) => !found.includes(file)),
  };
}

function lineCount(path: string): number {
  return read(path).trimEnd().split("\n").length;
}

test("there are files to look at", () => {
  assert.ok(SOURCES.length > 150, `only ${SOURCES.length} source files were found`);
  assert.ok(ALL.length > SOURCES.length + 50, `only ${ALL.length} files were found`);
});

test(`no source file has more than ${FILE_LINES_MAX} lines`, () => {
  const long = SOURCES.filter((path) => lineCount(path) > FILE_LINES_MAX);
  assert.deepEqual(unexcused(long, Object.keys(LONG_FILES)), { wrong: [], needless: [] }, "split the file");
  for (const [path, lines] of Object.entries(LONG_FILES)) {
    assert.ok(lineCount(path) <= lines, `${path} has grown from ${lines} to ${lineCount(path)} lines`);
  }
});

test("nothing is left to do", () => {
  const word = new RegExp(
    `\\b(?:${["TO", "FIX", "XX"].map((start) => start + (start === "FIX" ? "ME" : start === "TO" ? "DO" : "X")).join("|")})\\b`,
  );
  const files = [...ALL, ...filesBelow("docs", ".md"), "README.md", "CHANGELOG.md"];
  assert.deepEqual(
    files.filter((path) => word.test(read(path))),
    [],
    "do it, or write down what is missing where users look",
  );
});

test("only the output module writes to the terminal", () => {
  const writing = SOURCES.filter((path) => /\bconsole\.\w/.test(read(path)));
  assert.deepEqual(unexcused(writing, CONSOLE_FILES), { wrong: [], needless: [] });
  for (const path of CONSOLE_FILES) {
    const uses = [...read(path).matchAll(/.*\bconsole\.(\w+).*/g)];
    for (const [line, method] of uses) {
      assert.equal(method, "error", path);
      assert.match(line, /NEON_DEBUG/, `${path} writes to the console only when asked to`);
    }
  }
});

test("files are named in kebab-case", () => {
  const name = /^[a-z][a-z0-9]*(?:-[a-z0-9]+)*(?:\.(?:test|bench))?\.ts$/;
  assert.deepEqual(
    ALL.filter((path) => !name.test(posix.basename(path))),
    [],
  );
});

test("every source file says at its top what it is", () => {
  const isCommand = (path: string): boolean =>
    path.startsWith("src/commands/") && !path.startsWith("src/commands/shared/");
  const silent = SOURCES.filter((path) => !isCommand(path) && !/^\/\*\*[ \n]/.test(read(path)));
  assert.deepEqual(silent, [], "begin with a comment");
  // A command says it to its users, too.
  const commands = SOURCES.filter(isCommand);
  assert.ok(commands.length > 10);
  assert.deepEqual(
    commands.filter((path) => !/static override summary =/.test(read(path))),
    [],
  );
});

test("nothing is imported from a folder as a whole", () => {
  // A folder has no index file: whoever wants something names the file that has it.
  assert.deepEqual(
    ALL.filter((path) => ["index.ts", "utils.ts", "helpers.ts"].includes(posix.basename(path))),
    [],
  );
});

const IMPORT = /(?:\bfrom\s+|\bimport\s*\(\s*|\bimport\s+)"([^."][^"]*)"/g;

/** Names of packages that files import, without Node's own modules. */
function importedPackages(paths: readonly string[]): Set<string> {
  const specifiers = paths.flatMap((path) => [...read(path).matchAll(IMPORT)].map((match) => match[1] ?? ""));
  const packages = specifiers
    .filter((specifier) => !specifier.startsWith("node:"))
    .map((specifier) => specifier.split("/", specifier.startsWith("@") ? 2 : 1).join("/"));
  return new Set(packages);
}

test("what is imported is a dependency, and a dependency is imported", () => {
  const dependencies = Object.keys(packageSection("dependencies"));
  const imported = [...importedPackages(SOURCES)];
  assert.ok(imported.length > 3);
  assert.deepEqual(
    imported.filter((name) => !dependencies.includes(name)),
    [],
  );
  const unused = dependencies.filter((name) => !imported.includes(name));
  assert.deepEqual(unexcused(unused, UNIMPORTED_PACKAGES), { wrong: [], needless: [] }, "remove it");
});

test("every dependency has its reason", () => {
  const rows = [...read("docs/decisions/2026-11-21-dependencies.md").matchAll(/^\| (`.*?`) \|/gm)];
  const explained = rows.flatMap((row) =>
    [...(row[1] ?? "").matchAll(/`([^`]+)`/g)].map((match) => match[1] ?? ""),
  );
  const names = ["dependencies", "optionalDependencies", "devDependencies"].flatMap((section) =>
    Object.keys(packageSection(section)),
  );
  const used = names.filter((name) => !UNIMPORTED_PACKAGES.includes(name));
  assert.deepEqual(explained.sort(), used.sort());
});

test("versions of dependencies are exact", () => {
  const versions = ["dependencies", "optionalDependencies", "devDependencies"].flatMap((section) =>
    Object.entries(packageSection(section)),
  );
  assert.deepEqual(
    versions.filter(([, version]) => !/^(?:npm:@[\w-]+\/[\w-]+@)?\d+\.\d+\.\d+(?:-[\w.]+)?$/.test(version)),
    [],
  );
});

test("the lock file has every package for every platform", () => {
  // Where the registry lacks a package for another platform, npm leaves it out of the lock file, and then refuses to install from that.
  const { packages } = JSON.parse(read("package-lock.json")) as {
    packages: Record<string, { optionalDependencies?: Record<string, string> } | undefined>;
  };
  const wanted = Object.values(packages).flatMap((entry) => Object.keys(entry?.optionalDependencies ?? {}));
  assert.ok(wanted.length > 10);
  assert.deepEqual(
    wanted.filter((name) => packages[`node_modules/${name}`] === undefined),
    [],
  );
});

test("an exception that is not needed is found", () => {
  assert.deepEqual(unexcused(["a", "b"], ["b", "c"]), { wrong: ["a"], needless: ["c"] });
});
