// Search runs in a worker, and browsers start none for a page that is read from a disk.
// There a hidden frame takes its place: it runs the worker's script and passes messages on.
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.answer = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.script = new Promise((loaded) => frame.addEventListener("load", loaded)).then(
        () => frame.contentWindow,
      );
      const passing = "self.postMessage = (data) => frameElement.answer(data)";
      frame.srcdoc = `<script>${passing}</script><script src="${url}"></script>`;
      document.body.append(frame);
    }

    postMessage(data) {
      this.script.then((inside) =>
        inside.dispatchEvent(new inside.MessageEvent("message", { data })),
      );
    }
  };
}
