/** What a round of the soak is to do: everything that is random about it before it runs, from its seed alone. */
import type { Settings } from "../test/support/postgres.ts";
import { SeededRandom } from "../test/support/random.ts";

/**
 * What the round works on: several clients at once, the zoo of rare statements, that of DDL beside clients, or a relation
 * of more than 1 GB.
 */
export type RoundKind = "clients" | "zoo" | "ddl" | "big";

export interface RoundPlan {
  readonly kind: RoundKind;
  readonly pgVersion: number;
  readonly initdb: readonly string[];
  readonly settings: Settings;
  readonly checkpointDistanceBytes: number;
  /** Length of the part with several clients, in milliseconds. */
  readonly clientsMs: number;
  /** Longest time between two checkpoints, in milliseconds. */
  readonly checkpointMs: number;
  /** LSNs to compare, at most. */
  readonly pairs: number;
}

export interface SoakChoice {
  readonly seed: number;
  readonly round: number;
  readonly majors: readonly number[];
  readonly pairs: number;
  readonly big: boolean;
}

/** One round in so many has the big relation, which takes as long as several others. */
const BIG_INTERVAL = 20;
/** LSNs of a big relation: each is a comparison of more than 1 GB. */
const BIG_PAIRS_MAX = 4;

/**
 * For wal_consistency_checking: all but gist. A stock standby that checks finds fault with its own replay of GiST/DELETE,
 * which notes on the page that tuples were deleted, as the primary had not (gist/gistxlog.c, gistRedoDeleteRecord).
 */
const CHECKED_MANAGERS = "heap2, heap, btree, hash, gin, sequence, spgist, brin, generic";

/** The plan of a round, and the generator to go on with. Each round is the same whatever came before it. */
export function planRound(choice: SoakChoice): { plan: RoundPlan; random: SeededRandom } {
  const { round } = choice;
  const random = new SeededRandom(choice.seed + round * 65_537);
  const pgVersion = choice.majors[round % choice.majors.length] ?? 17;
  const usual = random.pick(["clients", "clients", "zoo", "ddl"] as const);
  const isBig = choice.big && round % BIG_INTERVAL === BIG_INTERVAL / 2;
  const kind = isBig ? "big" : usual;
  const segmentMb = random.pick([1, 16, 16, 64]);
  const plan: RoundPlan = {
    kind,
    pgVersion,
    initdb: [...checksums(random, pgVersion), `--wal-segsize=${segmentMb}`],
    settings: settingsOf(random, { kind, segmentMb, pgVersion }),
    checkpointDistanceBytes: (isBig ? 32 : random.pick([1, 2, 8, 32])) << 20,
    clientsMs: random.between(3000, 9000),
    checkpointMs: random.pick([200, 400, 1000]),
    pairs: isBig ? Math.min(BIG_PAIRS_MAX, choice.pairs) : choice.pairs,
  };
  return { plan, random };
}

/** On and off by turns; which of them has to be said depends on the major version. */
function checksums(random: SeededRandom, pgVersion: number): string[] {
  const on = random.chance(0.5);
  if (on) return ["--data-checksums"];
  return pgVersion >= 18 ? ["--no-data-checksums"] : [];
}

function settingsOf(
  random: SeededRandom,
  of: { kind: RoundKind; segmentMb: number; pgVersion: number },
): Settings {
  const { kind, segmentMb, pgVersion } = of;
  const isBig = kind === "big";
  // Images for checking in every record make more than a gigabyte of WAL of a zoo; other tests do that.
  const consistency = !isBig && kind !== "zoo" && random.chance(0.2);
  // Commits wait for the pageserver, or do not; pages are logged whole after a checkpoint, or not.
  const remote = random.chance(0.6);
  // The embedded builds have no other method.
  const compression = pgVersion >= 15 ? ["off", "off", "pglz"] : ["off", "off", "on"];
  return {
    wal_keep_size: "20GB",
    min_wal_size: `${5 * segmentMb}MB`,
    max_wal_size: isBig ? "1GB" : `${5 * segmentMb * random.between(1, 4)}MB`,
    checkpoint_timeout: "30s",
    full_page_writes: random.chance(remote ? 0.2 : 0.5) ? "on" : "off",
    synchronous_standby_names: remote ? "pageserver" : "",
    synchronous_commit: remote || random.chance(0.5) ? "on" : "off",
    wal_level: random.chance(0.2) ? "logical" : "replica",
    wal_compression: random.pick(compression),
    wal_log_hints: random.chance(0.3) ? "on" : "off",
    track_commit_timestamp: random.chance(0.3) ? "on" : "off",
    autovacuum: random.chance(0.3) ? "on" : "off",
    shared_buffers: random.pick(["2MB", "16MB", "64MB"]),
    ...(consistency ? { wal_consistency_checking: CHECKED_MANAGERS } : {}),
  };
}

/** One line about a plan. */
export function describePlan(plan: RoundPlan): string {
  const settings = Object.entries(plan.settings).map(([name, value]) => `${name}=${value}`);
  return `${plan.kind}, Postgres ${plan.pgVersion}, ${[...plan.initdb, ...settings].join(" ")}`;
}
