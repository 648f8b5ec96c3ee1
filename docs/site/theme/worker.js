// A page opened as a file may not start a Worker. Here one is a hidden frame that runs the same script.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const inside = frame.contentWindow
      inside.postMessage = data => this.tell(data)
      inside.importScripts = (...urls) => urls.reduce((before, each) => before.then(() => run(inside, each)), Promise.resolve())
      this.ready = run(inside, url).then(() => inside)
    }
    tell(data) {
      const event = new MessageEvent("message", { data })
      this.dispatchEvent(event)
      if (this.onmessage) this.onmessage(event)
    }
    postMessage(data) {
      this.ready.then(inside => inside.dispatchEvent(new inside.MessageEvent("message", { data })))
    }
    terminate() {}
  }
  const run = (inside, url) => new Promise((resolve, reject) => {
    const script = inside.document.createElement("script")
    Object.assign(script, { src: new URL(url, location), onload: resolve, onerror: reject })
    inside.document.body.append(script)
  })
}
