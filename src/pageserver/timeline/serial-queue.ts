/** Runs asynchronous jobs one after the other, in the order in which they came. */
export class SerialQueue {
  private last: Promise<unknown> = Promise.resolve();

  /** Resolves or rejects with the job; a job that fails does not stop those behind it. */
  async run<T>(job: () => Promise<T>): Promise<T> {
    const result = this.last.then(job);
    this.last = result.catch(() => undefined);
    return result;
  }
}
