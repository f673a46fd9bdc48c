/**
 * Origins: names for other pageservers, kept in `[origins]` of config.toml, and which branch of which origin each of our
 * branches goes with (its upstream), kept in `.neon/upstreams.json` by timeline, so that renaming a branch changes nothing.
 * Format of the latter: docs/formats/tracking.md.
 */
import { readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { isAbsolute, join, resolve } from "node:path";
import { ErrorCode, NeonError } from "../base/errors.ts";
import { isId } from "../base/ids.ts";
import { writeFileAtomically } from "./atomic-file.ts";
import { withLock } from "./lock.ts";
import { refNameProblem } from "./ref-name.ts";
import type { Repository } from "./repository.ts";
import { trackingPath } from "./tracking.ts";

/** A branch of an origin. */
export interface Upstream {
  readonly origin: string;
  readonly branch: string;
}

const FORMAT = "neon upstreams";
const VERSION = 1;
const ORIGIN_NAME_LENGTH_MAX = 100;

/** Throws `usage` for what is no name of an origin: as for branches, but without slashes. */
export function checkOriginName(name: string): void {
  const problem =
    name.length > ORIGIN_NAME_LENGTH_MAX
      ? `it is longer than ${ORIGIN_NAME_LENGTH_MAX} characters`
      : name.includes("/")
        ? "it contains a slash"
        : refNameProblem(name);
  if (problem === undefined) return;
  throw new NeonError(ErrorCode.Usage, `"${name}" is no valid name for an origin: ${problem}`, {
    hint: "Use letters, digits, `.`, `_` and `-`, as in `staging`. `neon origin add NAME URI` gives a URI a name.",
  });
}

/** `ORIGIN[:OTHER]` as `push` and `pull` take it. Throws `usage`. */
export function parseOriginArgument(text: string): { origin: string; branch: string | undefined } {
  const colon = text.indexOf(":");
  const origin = colon < 0 ? text : text.slice(0, colon);
  checkOriginName(origin);
  if (colon < 0) return { origin, branch: undefined };
  const branch = text.slice(colon + 1);
  const problem = refNameProblem(branch);
  if (problem === undefined) return { origin, branch };
  throw new NeonError(ErrorCode.Usage, `"${branch}" behind "${origin}:" is no name of a branch: ${problem}`, {
    hint: "ORIGIN or ORIGIN:BRANCH is wanted, as in `staging:feature/login`.",
  });
}

/** The URI with paths of files made absolute: they are read by other processes, in other directories. */
export function withAbsolutePaths(uri: string, directory: string): string {
  return uri.replace(/([?&](?:sslrootcert|passfile)=)([^&]*)/g, (whole, name: string, value: string) => {
    let path: string;
    try {
      path = decodeURIComponent(value);
    } catch {
      return whole;
    }
    if (path === "" || path === "system" || isAbsolute(path)) return whole;
    return name + encodeURIComponent(resolve(directory, path)).replaceAll("%2F", "/");
  });
}

/** Adds an origin. Throws `exists`. The caller has looked at the URI. */
export async function addOrigin(repository: Repository, name: string, uri: string): Promise<void> {
  await repository.changeSettings([[settingOf(name), uri]], (before) => {
    if (before.has(settingOf(name))) throw originExists(name);
  });
}

/** Gives an origin another URI. What was known of its branches is forgotten: they may be others' now. */
export async function setOriginUri(repository: Repository, name: string, uri: string): Promise<void> {
  await repository.changeSettings([[settingOf(name), uri]], (before) => {
    if (!before.has(settingOf(name))) throw unknownOrigin(repository, name);
  });
  await rm(trackingPath(repository, name), { force: true });
}

/** Removes an origin, what was known of it, and that it is the upstream of branches. */
export async function removeOrigin(repository: Repository, name: string): Promise<void> {
  await repository.changeSettings([[settingOf(name), undefined]], (before) => {
    if (!before.has(settingOf(name))) throw unknownOrigin(repository, name);
  });
  await rm(trackingPath(repository, name), { force: true });
  await changeUpstreams(repository, (upstreams) => {
    for (const [timeline, { origin }] of upstreams) if (origin === name) upstreams.delete(timeline);
  });
}

/** Throws `exists` for a name that is taken. */
export async function renameOrigin(repository: Repository, name: string, newName: string): Promise<void> {
  const uri = originUri(repository, name);
  const changes = [[settingOf(newName), uri] as const, [settingOf(name), undefined] as const];
  await repository.changeSettings(changes, (before) => {
    if (before.has(settingOf(newName))) throw originExists(newName);
  });
  // It is asked again soon enough; a file under another name would only be one more thing that can go wrong.
  await rm(trackingPath(repository, name), { force: true });
  await changeUpstreams(repository, (upstreams) => {
    for (const [timeline, upstream] of upstreams) {
      if (upstream.origin === name) upstreams.set(timeline, { ...upstream, origin: newName });
    }
  });
}

/** The URI of an origin, password included. Throws `not_found` with those that there are. */
export function originUri(repository: Repository, name: string): string {
  const uri = repository.config.origins[name];
  if (uri === undefined) throw unknownOrigin(repository, name);
  return uri;
}

function unknownOrigin(repository: Repository, name: string): NeonError {
  const names = Object.keys(repository.config.origins).sort();
  const known = names.length === 0 ? "" : ` There is ${names.join(", ")}.`;
  return new NeonError(ErrorCode.NotFound, `there is no origin "${name}"`, {
    hint: `Add it with \`neon origin add ${name} postgresql://USER@HOST:PORT\`.${known}`,
  });
}

function originExists(name: string): NeonError {
  return new NeonError(ErrorCode.Exists, `there is an origin "${name}" already`, {
    hint: `\`neon origin set-url ${name} URI\` changes it, \`neon origin remove ${name}\` removes it.`,
  });
}

/** The upstreams of branches, by their timelines. A file that cannot be read is none: pushing again makes it anew. */
export function readUpstreams(repository: Repository): Map<string, Upstream> {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(upstreamsPath(repository), "utf8"));
  } catch {
    return new Map();
  }
  const { format, version, upstreams } = (isObject(value) ? value : {}) as Record<string, unknown>;
  const found = new Map<string, Upstream>();
  if (format !== FORMAT || version !== VERSION || !isObject(upstreams)) return found;
  for (const [timeline, upstream] of Object.entries(upstreams)) {
    if (!isId(timeline) || !isObject(upstream)) continue;
    const { origin, branch } = upstream as Record<string, unknown>;
    if (typeof origin === "string" && typeof branch === "string") found.set(timeline, { origin, branch });
  }
  return found;
}

/** Notes which branch of which origin a timeline's branch goes with. */
export async function setUpstream(
  repository: Repository,
  timelineId: string,
  upstream: Upstream,
): Promise<void> {
  const before = readUpstreams(repository).get(timelineId);
  if (before?.origin === upstream.origin && before.branch === upstream.branch) return;
  await changeUpstreams(repository, (upstreams) => upstreams.set(timelineId, upstream));
}

/** Forgets the upstreams of timelines that are gone. */
export async function forgetUpstream(repository: Repository, timelineId: string): Promise<void> {
  if (!readUpstreams(repository).has(timelineId)) return;
  await changeUpstreams(repository, (upstreams) => upstreams.delete(timelineId));
}

async function changeUpstreams(
  repository: Repository,
  change: (upstreams: Map<string, Upstream>) => unknown,
): Promise<void> {
  await withLock(repository.lockPath("upstreams"), upstreamsPath(repository), async () => {
    const upstreams = readUpstreams(repository);
    change(upstreams);
    const file = { format: FORMAT, version: VERSION, upstreams: Object.fromEntries(upstreams) };
    await writeFileAtomically(upstreamsPath(repository), `${JSON.stringify(file, undefined, 2)}\n`, 0o600);
  });
}

function upstreamsPath(repository: Repository): string {
  return join(repository.directory, "upstreams.json");
}

function settingOf(name: string): string {
  return `origins.${name}`;
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
