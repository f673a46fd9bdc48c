/**
 * The `.neon` directory: finding it upward from where the user is, making it, its paths and its settings.
 *
 * While `neon init` is at work the directory contains a marker file. A `.neon` with a marker is no repository: `init`
 * may clear it and start again, every other command says so.
 */
import { randomBytes } from "node:crypto";
import type { Stats } from "node:fs";
import { chmod, mkdir, readFile, readdir, realpath, rm, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { ErrorCode, NeonError, systemCode, unreachable } from "../base/errors.ts";
import type { TenantId } from "../base/ids.ts";
import { fileError, writeFileAtomically } from "./atomic-file.ts";
import type { ConfigValue } from "./config-keys.ts";
import {
  type ConfigSettings,
  type NeonConfig,
  changeSetting,
  configFromSettings,
  parseSettings,
  renderConfig,
} from "./config.ts";
import { withLock } from "./lock.ts";

const DIRECTORY = ".neon";
const CONFIG = "config.toml";
/** Present from the first to the last step of `neon init`. */
const INIT_MARKER = "init-unfinished";
/** Directory of the locks. */
export const LOCKS = "locks";

/** What is at a place where a repository could be. */
export type RepositoryState = "none" | "complete" | "unfinished" | "file" | "foreign";

export class Repository {
  /** The directory that holds `.neon`. */
  readonly root: string;
  /** `.neon` itself. */
  readonly directory: string;
  private current: { readonly settings: ConfigSettings; readonly config: NeonConfig };

  private constructor(root: string, settings: ConfigSettings) {
    this.root = root;
    this.directory = join(root, DIRECTORY);
    this.current = { settings, config: configFromSettings(settings) };
  }

  get config(): NeonConfig {
    return this.current.config;
  }

  /** The settings that config.toml itself makes. */
  get settings(): ConfigSettings {
    return this.current.settings;
  }

  get configPath(): string {
    return join(this.directory, CONFIG);
  }

  /** Working directory of the pageserver. */
  get pageserverDirectory(): string {
    return join(this.directory, "pageserver");
  }

  get computesDirectory(): string {
    return join(this.directory, "computes");
  }

  /** Where stock Postgres recovers what is verified; there only meanwhile. */
  get verifyDirectory(): string {
    return join(this.directory, "verify");
  }

  /** Directory of one compute. Names are those of refs: `/` becomes `~`, which no ref may contain. */
  computeDirectory(name: string): string {
    return join(this.computesDirectory, name.replaceAll("/", "~"));
  }

  /** Path for `withLock`; locks guard what two commands must not do at once. */
  lockPath(name: string): string {
    return join(this.directory, LOCKS, name.replaceAll("/", "~"));
  }

  /**
   * The repository at `override` if given (a path, or the value of NEON_REPO_DIR), otherwise the nearest one at or
   * above `startDirectory`. Throws `not_found`, or `conflict` for an unfinished one.
   */
  static async find(startDirectory: string, override?: string): Promise<Repository> {
    const root =
      override === undefined ? await searchUpward(startDirectory) : rootOf(startDirectory, override);
    const state = await repositoryState(root);
    if (state === "complete") return Repository.load(root);
    if (state === "none" || state === "unfinished") throw stateError(state, root);
    throw new NeonError(ErrorCode.NotFound, `no neon repository: ${stateError(state, root).message}`, {
      hint: "Create one elsewhere with `neon init DIR`, or say where it is with --repo DIR or $NEON_REPO_DIR.",
    });
  }

  /** Begins a repository: `.neon` with its marker and config, mode 0700. `finishCreation` makes it valid. */
  static async create(root: string, config: NeonConfig): Promise<Repository> {
    const directory = join(root, DIRECTORY);
    try {
      await mkdir(directory, { recursive: true });
      // Run by root, Postgres is another user, who has to get to the computes; what is secret has modes of its own.
      if (process.getuid?.() === 0) await chmod(directory, 0o755);
      await writeFileAtomically(join(directory, INIT_MARKER), `${process.pid}\n`, 0o644);
      await mkdir(join(directory, "computes"), { recursive: true });
      await mkdir(join(directory, "pageserver"), { recursive: true, mode: 0o700 });
      await chmod(join(directory, "pageserver"), 0o700);
    } catch (error) {
      throw fileError(`cannot create ${directory}`, error);
    }
    const text = renderConfig(config);
    await writeFileAtomically(join(directory, CONFIG), text, 0o600);
    return new Repository(root, parseSettings(text, join(directory, CONFIG)));
  }

  /** The last step of `neon init`. */
  async finishCreation(): Promise<void> {
    await rm(join(this.directory, INIT_MARKER), { force: true });
  }

  /** What an interrupted `neon init` left, as far as it had a config; to find what still runs in it. */
  static async openUnfinished(root: string): Promise<Repository | undefined> {
    try {
      return await Repository.load(root);
    } catch {
      return undefined;
    }
  }

  /**
   * Removes what an interrupted `neon init` left, but for its locks: the caller holds one, and has stopped what runs
   * there.
   */
  static async removeUnfinished(root: string): Promise<void> {
    const state = await repositoryState(root);
    if (state !== "unfinished") throw stateError(state, root);
    const directory = join(root, DIRECTORY);
    try {
      // The marker goes last, so that a removal that is interrupted is still recognised.
      const others = (await readdir(directory)).filter((name) => name !== LOCKS && name !== INIT_MARKER);
      for (const name of [...others, INIT_MARKER]) {
        // An initdb whose parent was killed may still be writing for a moment.
        await rm(join(directory, name), { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
      }
    } catch (error) {
      throw fileError(`cannot remove ${directory}`, error);
    }
  }

  /** Changes one setting in config.toml (undefined removes it), safely against other commands. */
  async changeSetting(path: string, value: ConfigValue | undefined): Promise<void> {
    await this.changeSettings([[path, value]]);
  }

  /** Changes several settings at once: all or none. `check` sees the settings as they are just before. */
  async changeSettings(
    changes: readonly (readonly [path: string, value: ConfigValue | undefined])[],
    check: (before: ConfigSettings) => void = () => undefined,
  ): Promise<void> {
    await withLock(this.lockPath("config"), this.configPath, async () => {
      let changed = await readConfigText(this.configPath);
      check(parseSettings(changed, this.configPath));
      for (const [path, value] of changes) changed = changeSetting(changed, path, value, this.configPath);
      await writeFileAtomically(this.configPath, changed, 0o600);
      const settings = parseSettings(changed, this.configPath);
      this.current = { settings, config: configFromSettings(settings) };
    });
  }

  private static async load(root: string): Promise<Repository> {
    const path = join(root, DIRECTORY, CONFIG);
    return new Repository(root, parseSettings(await readConfigText(path), path));
  }
}

/** A config with a fresh secret, for `Repository.create`. */
export function newConfig(options: {
  tenantId: TenantId;
  pgVersion: number;
  pgBin?: string | undefined;
  pageserverPort: number;
}): NeonConfig {
  return {
    defaultTenantId: options.tenantId,
    pgVersion: options.pgVersion,
    ...(options.pgBin === undefined ? {} : { pgBin: options.pgBin }),
    pageserver: {
      listen: `127.0.0.1:${options.pageserverPort}`,
      authToken: randomBytes(24).toString("hex"),
    },
    origins: {},
    computes: {},
  };
}

/** What is in `root`: a repository, half of one, something else, or nothing. */
export async function repositoryState(root: string): Promise<RepositoryState> {
  const directory = join(root, DIRECTORY);
  const stats = await statOrUndefined(directory);
  if (!stats) return "none";
  if (!stats.isDirectory()) return "file";
  if (await statOrUndefined(join(directory, INIT_MARKER))) return "unfinished";
  if (await statOrUndefined(join(directory, CONFIG))) return "complete";
  // Locks, and a marker that has not got its name yet, are left by a `neon init` that was cut off in its first step.
  const names = await readdir(directory);
  return names.every((name) => name === LOCKS || name.startsWith(INIT_MARKER)) ? "none" : "foreign";
}

/** The directory that holds `.neon`, from a path that a user gave; people also name `.neon` itself. */
export function rootOf(startDirectory: string, override: string): string {
  const path = resolve(startDirectory, override);
  return basename(path) === DIRECTORY ? dirname(path) : path;
}

/** Why `root` holds no usable repository, as an error for the user. */
export function stateError(state: RepositoryState, root: string): NeonError {
  const directory = join(root, DIRECTORY);
  switch (state) {
    case "complete":
      return new NeonError(ErrorCode.Exists, `${directory} is a neon repository already`, {
        hint: "Use it (`neon status`, `neon start`), or choose another directory: `neon init DIR`.",
      });
    case "unfinished":
      return new NeonError(ErrorCode.Conflict, `${directory} is half made: \`neon init\` was interrupted`, {
        hint: `Run \`neon init ${root}\` again; it clears what is left and starts over.`,
      });
    case "file":
      return new NeonError(
        ErrorCode.Conflict,
        `${directory} is a file, so another tool (neonctl?) uses that name`,
        {
          hint: "Choose another directory with `neon init DIR` (then `--repo DIR` or $NEON_REPO_DIR), or move the file away.",
        },
      );
    case "foreign":
      return new NeonError(
        ErrorCode.Conflict,
        `${directory} exists, but has no ${CONFIG}: it is no neon repository`,
        {
          hint: "If nothing needs it, remove the directory; otherwise choose another with `neon init DIR`.",
        },
      );
    case "none":
      return new NeonError(ErrorCode.NotFound, `no neon repository in ${root} or above it`, {
        hint: "Create one with `neon init`, or say where it is with --repo DIR or $NEON_REPO_DIR.",
      });
    default:
      return unreachable(state);
  }
}

/** The nearest directory at or above `start` with a `.neon`; `start` itself if there is none. */
async function searchUpward(start: string): Promise<string> {
  const first = await realpath(start).catch(() => resolve(start));
  let directory = first;
  let rejected: string | undefined;
  for (;;) {
    const state = await repositoryState(directory);
    if (state === "complete" || state === "unfinished") return directory;
    // Another tool's .neon does not hide a repository further up.
    if (state !== "none") rejected ??= directory;
    const parent = dirname(directory);
    if (parent === directory) return rejected ?? first;
    directory = parent;
  }
}

async function readConfigText(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    throw fileError(`cannot read ${path}`, error);
  }
}

async function statOrUndefined(path: string): Promise<Stats | undefined> {
  try {
    return await stat(path);
  } catch (error) {
    const code = systemCode(error);
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw fileError(`cannot look at ${path}`, error);
  }
}
