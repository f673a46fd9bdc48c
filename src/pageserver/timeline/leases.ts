/**
 * Points of a timeline that somebody uses and that garbage collection must keep: leases, which end by themselves unless
 * they are renewed (read-only computes), and holds, which end with what needs them (a base backup, a transfer). Leases
 * survive a restart: `leases.json`, see docs/formats/timeline-metadata.md.
 */
import { join } from "node:path";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import type { Clock, Files } from "../../base/seams.ts";
import { readJsonFile, writeJsonFile } from "./json-file.ts";
import { SerialQueue } from "./serial-queue.ts";

export const LEASES_FILE = "leases.json";
const MAGIC = "neon-leases";
const VERSION = 1;
/** More than anybody needs on one timeline. */
const LEASES_MAX = 10_000;
const NAME_LENGTH_MAX = 200;
/** How names of leases begin that keep all WAL from their LSN on: those of replication slots. */
export const SLOT_PREFIX = "slot ";

export interface Lease {
  readonly name: string;
  /** The end of a record. */
  readonly lsn: Lsn;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
}

export interface Hold {
  readonly lsn: Lsn;
  readonly reason: string;
  /** Not only this point is held, but all WAL from there on. */
  readonly wal: boolean;
}

export class Leases {
  private readonly directory: string;
  private readonly files: Files;
  private readonly clock: Clock;
  private readonly changes = new SerialQueue();
  private leases = new Map<string, Lease>();
  private loading: Promise<void> | undefined;
  private readonly held = new Set<Hold>();

  /** `directory` is the timeline's. */
  constructor(directory: string, { files, clock }: { files: Files; clock: Clock }) {
    this.directory = directory;
    this.files = files;
    this.clock = clock;
  }

  /** Makes a lease or renews it, durably; a name has one at a time. */
  renew(name: string, lsn: Lsn, durationMs: number): Promise<Lease> {
    return this.change((leases, now) => {
      const lease = { name, lsn, expiresAt: now + durationMs };
      leases.set(name, lease);
      if (leases.size > LEASES_MAX) {
        throw new NeonError(ErrorCode.Conflict, `a branch has at most ${LEASES_MAX} leases`);
      }
      return lease;
    });
  }

  /** Whether there was one. */
  release(name: string): Promise<boolean> {
    return this.change((leases) => leases.delete(name));
  }

  /** Those that have not ended, by LSN. */
  async list(): Promise<Lease[]> {
    await this.load();
    return this.current();
  }

  /** Those that have not ended, once they have been loaded. */
  current(): Lease[] {
    const now = this.clock.now();
    return [...this.leases.values()].filter((lease) => lease.expiresAt > now).sort((a, b) => a.lsn - b.lsn);
  }

  hold(lsn: Lsn, reason: string, { wal = false } = {}): Disposable {
    const hold: Hold = { lsn, reason, wal };
    this.held.add(hold);
    return { [Symbol.dispose]: () => void this.held.delete(hold) };
  }

  holds(): readonly Hold[] {
    return [...this.held];
  }

  /** From where on WAL is needed, by those who have said so. */
  walNeededFrom(): Lsn[] {
    const slots = this.current().filter(({ name }) => name.startsWith(SLOT_PREFIX));
    return [...slots, ...[...this.held].filter(({ wal }) => wal)].map(({ lsn }) => lsn);
  }

  private change<R>(apply: (leases: Map<string, Lease>, now: number) => R): Promise<R> {
    return this.changes.run(async () => {
      await this.load();
      const now = this.clock.now();
      const leases = new Map([...this.leases].filter(([, lease]) => lease.expiresAt > now));
      const result = apply(leases, now);
      await writeJsonFile(this.files, join(this.directory, LEASES_FILE), MAGIC, VERSION, {
        leases: [...leases.values()].map(({ name, lsn, expiresAt }) => ({
          name,
          lsn: formatLsn(lsn),
          expires_at: new Date(expiresAt).toISOString(),
        })),
      });
      this.leases = leases;
      return result;
    });
  }

  private load(): Promise<void> {
    this.loading ??= this.read().catch((error: unknown) => {
      this.loading = undefined;
      throw error;
    });
    return this.loading;
  }

  private async read(): Promise<void> {
    const file = await readJsonFile(this.files, join(this.directory, LEASES_FILE), MAGIC, VERSION);
    for (const fields of file?.fields.objects("leases") ?? []) {
      const name = fields.text("name", { maxLength: NAME_LENGTH_MAX });
      this.leases.set(name, { name, lsn: fields.lsn("lsn"), expiresAt: fields.time("expires_at") });
    }
  }
}

/** The stream, and what it needs is let go at its end, or when nobody reads on. */
export async function* releasing(
  stream: AsyncIterable<Uint8Array>,
  hold: Disposable,
): AsyncGenerator<Uint8Array> {
  using _hold = hold;
  yield* stream;
}
