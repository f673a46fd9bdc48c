/**
 * Kills the pageserver again and again, at any moment, for as many rounds as one likes, and checks after each that
 * nothing acknowledged is lost. Prints its seed; the first loss ends it with the round and the command that repeats it.
 * Usage: npm run build && npm run soak:crash -- [--rounds 10000] [--seed N]
 */
import { parseArgs } from "node:util";
import { crashRounds } from "../test/faults/crash-rounds.ts";

/** Rounds with one directory; then everything begins anew under the next seed. */
const ROUNDS_PER_SITE = 500;

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "10000" },
    seed: { type: "string", default: String(Math.floor(Math.random() * 2 ** 32)) },
  },
});
const total = Number(values.rounds);
let seed = Number(values.seed);
if (!Number.isSafeInteger(total) || total < 1 || !Number.isSafeInteger(seed)) {
  throw new Error("--rounds and --seed are whole numbers");
}
console.log(`seed ${seed}, ${total} rounds`);
for (let done = 0; done < total; seed++) {
  const rounds = Math.min(ROUNDS_PER_SITE, total - done);
  try {
    const { early, acknowledgedBytes } = await crashRounds({ seed, rounds });
    done += rounds;
    console.log(
      `${done} rounds: nothing lost (${early} of the last ${rounds} while starting, ${acknowledgedBytes} bytes)`,
    );
  } catch (error) {
    console.error(error);
    console.error(`repeat with: npm run soak:crash -- --rounds ${rounds} --seed ${seed}`);
    process.exitCode = 1;
    break;
  }
}
