/**
 * Public keys that tokens are checked with: an Ed25519 key in PEM, or a directory of such files (`*.pem`), so that keys can
 * be changed without an outage. The files are looked at for each token. A file that cannot be used any more opens nothing;
 * the others go on holding.
 */
import { type KeyObject, createPublicKey } from "node:crypto";
import { type Stats, readFileSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { ErrorCode, NeonError, messageOf } from "../../base/errors.ts";

const FILES_MAX = 100;
const FILE_SIZE_MAX = 64 * 1024;

interface Loaded {
  readonly keys: readonly KeyObject[];
  /** Why files cannot be used. */
  readonly problems: readonly string[];
}

export class JwtKeys {
  private readonly path: string;
  private readonly onProblem: (message: string) => void;
  private stamp: string;
  private loaded: Loaded;

  private constructor(path: string, onProblem: (message: string) => void) {
    this.path = path;
    this.onProblem = onProblem;
    this.stamp = stampOf(path);
    this.loaded = load(path);
  }

  /** Throws `usage` if a file cannot be used, or there is none. `onProblem` is told when that happens later. */
  static open(path: string, onProblem: (message: string) => void): JwtKeys {
    const keys = new JwtKeys(path, onProblem);
    keys.check();
    return keys;
  }

  /** Those that hold now. */
  current(): readonly KeyObject[] {
    const stamp = stampOf(this.path);
    if (stamp !== this.stamp) this.take(stamp);
    return this.loaded.keys;
  }

  /** Reads the files again, changed or not. Throws `usage` if one cannot be used; the usable ones hold all the same. */
  reload(): number {
    this.take(stampOf(this.path));
    this.check();
    return this.loaded.keys.length;
  }

  private take(stamp: string): void {
    this.stamp = stamp;
    this.loaded = load(this.path);
    for (const problem of this.loaded.problems) this.onProblem(problem);
  }

  private check(): void {
    const { keys, problems } = this.loaded;
    if (problems.length === 0 && keys.length > 0) return;
    throw new NeonError(ErrorCode.Usage, problems[0] ?? `jwt_public_key: ${this.path} has no files *.pem`, {
      hint: "`neon pageserver key` makes a key pair; the public half belongs there.",
    });
  }
}

function filesOf(path: string): string[] {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (!stats?.isDirectory()) return [path];
  const names = readdirSync(path).filter((name) => name.endsWith(".pem"));
  return names.sort().map((name) => join(path, name));
}

function stampOf(path: string): string {
  try {
    return filesOf(path)
      .map((file) => `${file} ${stampOfFile(statSync(file, { throwIfNoEntry: false }))}`)
      .join("\n");
  } catch (error) {
    return messageOf(error);
  }
}

function stampOfFile(stats: Stats | undefined): string {
  return stats ? `${stats.ino} ${stats.mtimeMs} ${stats.size}` : "none";
}

function load(path: string): Loaded {
  const keys: KeyObject[] = [];
  const problems: string[] = [];
  try {
    const files = filesOf(path);
    if (files.length > FILES_MAX) problems.push(`jwt_public_key: ${path} has more than ${FILES_MAX} files`);
    for (const file of files.slice(0, FILES_MAX)) {
      const key = readKey(file);
      if (typeof key === "string") problems.push(`jwt_public_key: ${file}: ${key}`);
      else keys.push(key);
    }
  } catch (error) {
    problems.push(`jwt_public_key: ${messageOf(error)}`);
  }
  return { keys, problems };
}

/** The key, or what is wrong with the file. */
function readKey(file: string): KeyObject | string {
  try {
    if (statSync(file).size > FILE_SIZE_MAX) return `longer than ${FILE_SIZE_MAX} bytes`;
    const pem = readFileSync(file, "latin1");
    if (!pem.includes("-----BEGIN PUBLIC KEY-----")) return "no public key in PEM";
    const key = createPublicKey(pem);
    return key.asymmetricKeyType === "ed25519" ? key : "no Ed25519 key";
  } catch (error) {
    return messageOf(error);
  }
}
