/**
 * Random workloads against Postgres' own opinion for as long as is asked for: rounds of `soak-round.ts`, each in a
 * process of its own, until the first difference or the end of the time.
 *
 *     npm run soak -- --minutes 60 [--seed N] [--round N] [--rounds N] [--pairs N] [--jobs N] [--pg-version N|all]
 *                     [--no-big] [--keep-going]
 *
 * Whatever happens, the last line says how many (workload, LSN) pairs were compared, and nothing is left behind. Exit
 * code 0 if everything was equal, 1 after a difference or a round that was lost (with what to run to see it again),
 * 130 after Ctrl-C, 143 after SIGTERM.
 */
import { writeSync } from "node:fs";
import { parseArgs } from "node:util";
import { EMBEDDED_MAJORS } from "../test/support/postgres.ts";
import { describePlan, planRound } from "./soak-plan.ts";
import { type RoundOutcome, Rounds, makeDirectory } from "./soak-processes.ts";

interface Options {
  readonly minutes: number;
  readonly seed: number;
  /** The round to begin with; each has a seed of its own. */
  readonly round: number;
  readonly rounds: number;
  readonly pairs: number;
  /** Rounds at the same time. */
  readonly jobs: number;
  readonly pgVersion: string;
  readonly majors: readonly number[];
  readonly big: boolean;
  /** Go on after a difference. */
  readonly keepGoing: boolean;
}

/** How often it is said how far a round is, in milliseconds. */
const PROGRESS_MS = 30_000;

function readOptions(args: readonly string[]): Options {
  const { values } = parseArgs({
    args: [...args],
    options: {
      minutes: { type: "string", default: "60" },
      seed: { type: "string" },
      round: { type: "string", default: "0" },
      rounds: { type: "string", default: "1000000" },
      pairs: { type: "string", default: "40" },
      jobs: { type: "string", default: "1" },
      "pg-version": { type: "string", default: "all" },
      "no-big": { type: "boolean", default: false },
      "keep-going": { type: "boolean", default: false },
    },
  });
  const number = (name: string, text: string): number => {
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
    jobs: Math.max(1, number("jobs", values.jobs)),
    pgVersion: version,
    majors,
    big: !values["no-big"],
    keepGoing: values["keep-going"],
  };
}

/** Synchronous, so that nothing that was said is lost when the process ends. */
function say(text: string): void {
  try {
    writeSync(1, `${text}\n`);
  } catch {
    // Nobody reads it any more.
  }
}

class Soak {
  private readonly options: Options;
  private readonly startedAt = performance.now();
  private readonly rounds = new Rounds(makeDirectory());
  private next: number;
  private pairs = 0;
  private pages = 0;
  private equal = 0;
  private failed = 0;
  private stopping = false;
  private finished = false;

  constructor(options: Options) {
    this.options = options;
    this.next = options.round;
  }

  /** Runs until it is over; the exit code. */
  async run(): Promise<number> {
    const { options } = this;
    say(`seed ${options.seed}, ${options.minutes} minutes`);
    await Promise.all(Array.from({ length: options.jobs }, () => this.work()));
    this.finish("");
    return this.failed > 0 ? 1 : 0;
  }

  /** Ends after the pairs that are being compared. */
  stop(): void {
    this.stopping = true;
    this.rounds.ask();
  }

  /** The last line, and then the end of what was made, which may take a moment; once. */
  finish(why: string): void {
    if (this.finished) return;
    this.finished = true;
    const minutes = (this.elapsedMs / 60_000).toFixed(1);
    const failures = this.failed > 0 ? `, ${this.failed} rounds FAILED` : "";
    say(
      `${why === "" ? "" : `${why}: `}${this.pairs} pairs in ${this.equal} rounds were equal to stock recovery, ` +
        `${this.pages} pages, ${minutes} minutes${failures}`,
    );
    this.rounds.kill();
  }

  private get elapsedMs(): number {
    return performance.now() - this.startedAt;
  }

  private isOver(): boolean {
    const { options } = this;
    if (this.stopping || (this.failed > 0 && !options.keepGoing)) return true;
    if (this.next >= options.round + options.rounds) return true;
    return this.next > options.round && this.elapsedMs > options.minutes * 60_000;
  }

  private async work(): Promise<void> {
    while (!this.isOver()) await this.runRound(this.next++);
  }

  private async runRound(round: number): Promise<void> {
    const { seed, majors, pairs, big } = this.options;
    const choice = { seed, round, majors, pairs, big };
    const untilMs = Date.now() + this.options.minutes * 60_000 - this.elapsedMs;
    const { plan } = planRound(choice);
    const began = performance.now();
    const seconds = (): string => `${((performance.now() - began) / 1000).toFixed(0)} s`;
    let said = began;
    const outcome = await this.rounds.run({ ...choice, untilMs }, (what) => {
      if (performance.now() - said < PROGRESS_MS) return;
      said = performance.now();
      say(`round ${round}, ${seconds()}: ${what}`);
    });
    // What was cut off by the end of all says nothing.
    if (this.finished) return;
    if (outcome.kind === "equal") {
      const { result } = outcome;
      this.equal++;
      this.pairs += result.pairs;
      this.pages += result.pairPages;
      say(
        `round ${round}, ${seconds()}: ${result.pairs} pairs equal, ${result.pairPages} pages, ` +
          `${result.verifiedPages} pages by record, ${result.directoryPages} by directory, ` +
          `${(result.walBytes / 2 ** 20).toFixed(0)} MiB of WAL (${describePlan(plan)}); ${this.pairs} pairs so far`,
      );
    } else this.fail(round, outcome, describePlan(plan));
  }

  private fail(round: number, outcome: Exclude<RoundOutcome, { kind: "equal" }>, description: string): void {
    const { seed, pairs, pgVersion, big } = this.options;
    this.failed++;
    say(`round ${round} ${outcome.kind === "lost" ? "was LOST" : "FAILED"} (${description})`);
    say(outcome.error);
    const again = `--seed ${seed} --round ${round} --rounds 1 --pairs ${pairs} --pg-version ${pgVersion}`;
    say(`Again: npm run soak -- ${again}${big ? "" : " --no-big"}`);
    // The others need not go on.
    if (!this.options.keepGoing) this.stop();
  }
}

function main(options: Options): void {
  const soak = new Soak(options);
  const end = (why: string, code: number): void => {
    soak.finish(why);
    process.exit(code);
  };
  let interrupted = false;
  process.on("SIGINT", () => {
    if (interrupted) end("interrupted", 130);
    interrupted = true;
    say("Ctrl-C: ends after the pair that is being compared; once more: at once");
    soak.stop();
  });
  process.removeAllListeners("SIGTERM");
  process.on("SIGTERM", () => {
    end("SIGTERM", 143);
  });
  process.on("SIGHUP", () => {
    end("SIGHUP", 129);
  });
  const fail = (error: unknown): void => {
    say(error instanceof Error ? (error.stack ?? error.message) : String(error));
    end("error", 1);
  };
  process.on("uncaughtException", fail);
  // However the process ends, if it can say anything at all.
  process.on("exit", () => {
    soak.finish("ended early");
  });
  soak.run().then((code) => process.exit(interrupted ? 130 : code), fail);
}

try {
  main(readOptions(process.argv.slice(2)));
} catch (error) {
  process.stderr.write(`error: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 2;
}
