/** The files of the project, as the tests of this folder look at them. Paths are relative to its root, with `/`. */
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join, resolve } from "node:path";

export const ROOT = resolve(import.meta.dirname, "../..");

export function read(path: string): string {
  return readFileSync(join(ROOT, path), "utf8");
}

export function exists(path: string): boolean {
  return existsSync(join(ROOT, path));
}

/** Files below a folder whose names end in `suffix`. */
export function filesBelow(folder: string, suffix: string): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(suffix))
    .map((entry) => join(entry.parentPath, entry.name).slice(ROOT.length + 1))
    .sort();
}

/** Everything written for people: the README, the changelog and what is in docs/. */
export function documents(): string[] {
  return ["README.md", "CHANGELOG.md", ...filesBelow("docs", ".md")];
}

/** Strings of an object in package.json, such as `scripts`. */
export function packageSection(name: string): Record<string, string> {
  const parsed = JSON.parse(read("package.json")) as Record<string, Record<string, string> | undefined>;
  return parsed[name] ?? {};
}
