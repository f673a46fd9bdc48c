/** Passwords for commands: asked for at a terminal without being shown, read from stdin or a variable elsewhere. */
import { ErrorCode, NeonError } from "../../base/errors.ts";

/** Variable that a password may be in. */
export const PASSWORD_VARIABLE = "NEON_USER_PASSWORD";
const LENGTH_MAX = 1000;

const Key = { interrupt: "\u0003", end: "\u0004", backspace: "\u007f", erase: "\b" } as const;

/** A new password: typed twice at a terminal, else the first line of stdin. Throws `usage` for an empty one, `declined`. */
export async function readNewPassword(what: string, signal: AbortSignal): Promise<string> {
  const given = process.env[PASSWORD_VARIABLE];
  if (given !== undefined) return checked(given);
  if (!process.stdin.isTTY || !process.stderr.isTTY) return checked(await firstLine(signal));
  const password = await askHidden(`${what}: `, signal);
  checked(password);
  if ((await askHidden("Again: ", signal)) !== password) {
    throw new NeonError(ErrorCode.Declined, "the two passwords differ: nothing was changed");
  }
  return password;
}

function checked(password: string): string {
  if (password === "" || password.length > LENGTH_MAX || password.includes("\0")) {
    throw new NeonError(ErrorCode.Usage, `a password has 1 to ${LENGTH_MAX} characters`, {
      hint: `Type it, write it to the standard input, or set ${PASSWORD_VARIABLE}.`,
    });
  }
  return password;
}

async function firstLine(signal: AbortSignal): Promise<string> {
  let text = "";
  const input = process.stdin.setEncoding("utf8");
  const onAbort = (): void => {
    input.destroy();
  };
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    for await (const chunk of input) {
      text += String(chunk);
      if (text.includes("\n") || text.length > LENGTH_MAX * 2) break;
    }
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
  return (text.split("\n", 1)[0] ?? "").replace(/\r$/, "");
}

/** One line from the terminal without an echo. */
async function askHidden(prompt: string, signal: AbortSignal): Promise<string> {
  const { stdin, stderr } = process;
  stderr.write(prompt);
  stdin.setRawMode(true);
  stdin.setEncoding("utf8");
  let typed = "";
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const gaveUp = (): NeonError => new NeonError(ErrorCode.Declined, "no password was given");
  const onData = (text: string): void => {
    for (const key of text) {
      if (key === "\r" || key === "\n") return resolve(typed);
      if (key === Key.end) return typed === "" ? reject(gaveUp()) : resolve(typed);
      if (key === Key.interrupt) {
        // In raw mode the terminal makes no signal of it.
        process.kill(process.pid, "SIGINT");
        return reject(gaveUp());
      }
      if (key === Key.backspace || key === Key.erase) typed = typed.replace(/.$/su, "");
      else typed += key;
    }
    return undefined;
  };
  const onAbort = (): void => reject(gaveUp());
  stdin.on("data", onData).resume();
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await promise;
  } finally {
    signal.removeEventListener("abort", onAbort);
    stdin.off("data", onData).pause();
    stdin.setRawMode(false);
    stderr.write("\n");
  }
}
