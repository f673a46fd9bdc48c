/** For benchmarks: how long the event loop stands still. */

/** Longest turn of the event loop in CPU time of this thread, until the result is called. */
export function watchLoop(): () => number {
  let last = process.threadCpuUsage();
  let longestMs = 0;
  const tick = (): void => {
    const { user, system } = process.threadCpuUsage(last);
    longestMs = Math.max(longestMs, (user + system) / 1000);
    last = process.threadCpuUsage();
    timer = setImmediate(tick);
  };
  let timer = setImmediate(tick);
  return () => {
    clearImmediate(timer);
    return longestMs;
  };
}
