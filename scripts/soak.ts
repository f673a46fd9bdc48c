/**
 * Random workloads against Postgres' own opinion for as long as is asked for: rounds of `soak-round.ts`, one after the
 * other, until the first difference or the end of the time.
 *
 *     npm run soak -- --minutes 60 [--seed N] [--round N] [--rounds N] [--pairs N] [--pg-version N|all] [--no-big]
 *
 * Exit code 0 if everything was equal, 1 at the first difference (with what to run to see it again), 130 after Ctrl-C.
 */
import { parseArgs } from "node:util";
import { EMBEDDED_MAJORS } from "../test/support/postgres.ts";
import { SeededRandom } from "../test/support/random.ts";
import { type RoundKind, type RoundPlan, planRound, runRound } from "./soak-round.ts";

interface Options {
  readonly minutes: number;
  readonly seed: number;
  /** The round to begin with; each has a seed of its own. */
  readonly round: number;
  readonly rounds: number;
  readonly pairs: number;
  readonly majors: readonly number[];
  readonly big: boolean;
}

/** One round in so many has the big relation, which takes as long as several others. */
const BIG_INTERVAL = 10;

function readOptions(args: readonly string[]): Options {
  const { values } = parseArgs({
    args: [...args],
    options: {
      minutes: { type: "string", default: "60" },
      seed: { type: "string" },
      round: { type: "string", default: "0" },
      rounds: { type: "string", default: "1000000" },
      pairs: { type: "string", default: "10" },
      "pg-version": { type: "string", default: "17" },
      "no-big": { type: "boolean", default: false },
    },
  });
  const number = (name: "minutes" | "seed" | "round" | "rounds" | "pairs", text: string): number => {
    const value = Number(text);
    if (!Number.isFinite(value) || value < 0) throw new Error(`--${name} wants a number, not "${text}"`);
    return value;
  };
  const version = values["pg-version"];
  const majors =
    version === "all" ? EMBEDDED_MAJORS : EMBEDDED_MAJORS.filter((major) => String(major) === version);
  if (majors.length === 0)
    throw new Error(`there is no embedded Postgres ${version}; there are ${EMBEDDED_MAJORS.join(", ")}`);
  return {
    minutes: number("minutes", values.minutes),
    seed: values.seed === undefined ? Math.floor(Math.random() * 2 ** 32) : number("seed", values.seed),
    round: number("round", values.round),
    rounds: number("rounds", values.rounds),
    pairs: number("pairs", values.pairs),
    majors,
    big: !values["no-big"],
  };
}

function kindOf(round: number, random: SeededRandom, options: Options): RoundKind {
  if (options.big && round % BIG_INTERVAL === 1) return "big";
  return random.chance(0.3) ? "zoo" : "clients";
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

function describe(plan: RoundPlan): string {
  const settings = Object.entries(plan.settings).map(([name, value]) => `${name}=${value}`);
  return `${plan.kind}, Postgres ${plan.pgVersion}, ${[...plan.initdb, ...settings].join(" ")}`;
}

async function soak(options: Options): Promise<number> {
  const startedAt = performance.now();
  const stopped = new AbortController();
  process.once("SIGINT", () => {
    say("Ctrl-C: ends after the pair that is being compared");
    stopped.abort();
  });
  const isOver = (): boolean =>
    stopped.signal.aborted || performance.now() - startedAt > options.minutes * 60_000;
  let pairs = 0;
  let round = options.round;
  say(`seed ${options.seed}, ${options.minutes} minutes`);
  do {
    // Each round is the same whatever came before it, so that one can be repeated alone.
    const random = new SeededRandom(options.seed + round * 65_537);
    const pgVersion = random.pick(options.majors);
    const plan = planRound(random, { kind: kindOf(round, random, options), pgVersion, pairs: options.pairs });
    const began = performance.now();
    try {
      const result = await runRound(plan, random, isOver);
      pairs += result.pairs;
      const seconds = ((performance.now() - began) / 1000).toFixed(0);
      say(
        `round ${round}, ${seconds} s: ${result.pairs} pairs equal, ${result.verifiedPages} pages by record, ` +
          `${result.directoryPages} by directory, ${(result.walBytes / 2 ** 20).toFixed(0)} MiB of WAL (${describe(plan)})`,
      );
    } catch (error) {
      say(`round ${round} FAILED (${describe(plan)})`);
      say(error instanceof Error ? (error.stack ?? error.message) : String(error));
      const again = `--seed ${options.seed} --round ${round} --rounds 1 --pairs ${options.pairs}`;
      say(`Again: npm run soak -- ${again} --pg-version ${options.majors.length > 1 ? "all" : pgVersion}`);
      return 1;
    }
    round++;
  } while (!isOver() && round < options.round + options.rounds);
  say(`${pairs} pairs in ${round - options.round} rounds were equal to stock recovery`);
  return stopped.signal.aborted ? 130 : 0;
}

try {
  process.exitCode = await soak(readOptions(process.argv.slice(2)));
} catch (error) {
  process.stderr.write(`error: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 2;
}
