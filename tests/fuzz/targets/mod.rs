//! What is fed. A target takes an input and says in a few words what became of it; it panics when a promise is broken.

mod files;
mod http;
mod texts;

pub(crate) type Target = Box<dyn Fn(&[u8]) -> String>;

/// The target for which a folder of the corpus is named.
pub(crate) fn target(name: &str) -> Target {
    match name {
        "request" => {
            let server = http::Server::new();
            Box::new(move |input| server.request(input))
        }
        "sse" => {
            let server = http::Server::new();
            Box::new(move |input| server.streamed_equals_whole(input))
        }
        "template" => Box::new(texts::template),
        "tokenizer" => Box::new(texts::tokenizer),
        "grammar" => {
            let grammars = texts::grammars();
            Box::new(move |input| texts::grammar(&grammars, input))
        }
        "config" => {
            let folder = files::Folder::new(name);
            Box::new(move |input| folder.opened("config.json", input))
        }
        "safetensors" => {
            let folder = files::Folder::new(name);
            Box::new(move |input| folder.opened("model.safetensors", input))
        }
        "gguf" => {
            let folder = files::Folder::new(name);
            Box::new(move |input| folder.opened_alone("model.gguf", input))
        }
        _ => panic!("there is no target called {name}"),
    }
}
