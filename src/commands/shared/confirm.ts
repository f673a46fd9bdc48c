/** Asking before something is deleted that nothing brings back. */
import { once } from "node:events";
import { createInterface } from "node:readline/promises";
import { ErrorCode, NeonError } from "../../base/errors.ts";

export interface Question {
  /** What would happen, as a full sentence. */
  readonly text: string;
  /** What has to be typed. */
  readonly answer: string;
  /** The flag that says yes without being asked, `--force`. */
  readonly flag: string;
  readonly signal: AbortSignal;
}

/** Returns once the answer has been typed. Throws `declined` for any other, and where there is nobody to ask. */
export async function confirm({ text, answer, flag, signal }: Question): Promise<void> {
  if (!process.stdin.isTTY || !process.stderr.isTTY) {
    throw new NeonError(ErrorCode.Declined, `${text} Nobody is there to be asked, so it was not done`, {
      hint: `Add ${flag} to do it.`,
    });
  }
  const prompt = createInterface({ input: process.stdin, output: process.stderr });
  try {
    // The end of the input (Ctrl-D) is an answer, too.
    const ended = once(prompt, "close", { signal }).then(() => "");
    const typed = await Promise.race([
      prompt.question(`${text}\nType ${answer} to go on: `, { signal }),
      ended,
    ]);
    if (typed.trim() === answer) return;
  } finally {
    prompt.close();
  }
  throw new NeonError(ErrorCode.Declined, "not confirmed: nothing was changed", {
    hint: `${flag} does it without asking.`,
  });
}
