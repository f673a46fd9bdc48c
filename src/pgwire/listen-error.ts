/** Why a server cannot listen, and what to do about it. */
import { ErrorCode, NeonError, messageOf, systemCode } from "../base/errors.ts";

/** `setting` is the key of config.toml that says where. */
export function listenError(
  { host, port }: { host: string; port: number },
  setting: string,
  error: unknown,
): NeonError {
  const code = systemCode(error);
  if (code === "EADDRINUSE") {
    return new NeonError(ErrorCode.Resource, `port ${port} on ${host} is in use by another program`, {
      hint: `Stop that program, or set another address: neon config set ${setting} 127.0.0.1:PORT`,
      data: { host, port },
      cause: error,
    });
  }
  const hints: Readonly<Record<string, string>> = {
    EACCES: "Ports below 1024 need privileges: choose a higher one.",
    EADDRNOTAVAIL: "The host is no address of this machine.",
    ENOTFOUND: "The host cannot be resolved.",
  };
  return new NeonError(ErrorCode.Resource, `cannot listen on ${host}:${port}: ${messageOf(error)}`, {
    hint: hints[code ?? ""],
    data: { host, port },
    cause: error,
  });
}
