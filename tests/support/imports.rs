//! Owns the graph of imports between the files of one crate, read from the tokens of its sources.
//!
//! A path is resolved to the file of the deepest module that it names, through `use` declarations and re-exports. Code
//! under `#[cfg(test)]` does not count. A declaration `mod child;` is not an import.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A module by its names from the root, which is `lib` or `main`.
pub(crate) type ModulePath = Vec<String>;

/// A library and a program in one folder of sources.
#[derive(Default)]
pub(crate) struct Sources {
    /// The name by which the program imports the library.
    library: String,
    modules: BTreeMap<ModulePath, Module>,
}

#[derive(Default)]
struct Module {
    /// The module that the file belongs to: for an inline module, the one around it.
    file: ModulePath,
    /// What its `use` declarations bring into scope, by the name in scope.
    names: BTreeMap<String, Vec<String>>,
    /// Every path that it mentions.
    paths: BTreeSet<Vec<String>>,
}

/// Modules of one parent that import each other.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Circle {
    pub(crate) parent: String,
    pub(crate) members: Vec<String>,
    /// The imports between the members, as `importer -> imported`.
    pub(crate) imports: Vec<String>,
}

impl Sources {
    /// Reads `lib.rs`, `main.rs` and all of their modules in this folder.
    pub(crate) fn read(folder: &Path, library: &str) -> Self {
        let mut sources = Self { library: library.to_owned(), modules: BTreeMap::new() };
        for root in ["lib", "main"] {
            let file = folder.join(root).with_extension("rs");
            if file.exists() {
                sources.read_file(&vec![root.to_owned()], &file, folder);
            }
        }
        assert!(!sources.modules.is_empty(), "no crate in {}", folder.display());
        sources
    }

    fn read_file(&mut self, module: &ModulePath, file: &Path, children: &Path) {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.modules.insert(module.clone(), Module { file: module.clone(), ..Module::default() });
        self.read_tokens(module, tokens, children);
    }

    fn read_tokens(&mut self, module: &ModulePath, tokens: TokenStream, children: &Path) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            at = if is_test_attribute(&tokens[at..]) {
                end_of_item(&tokens, at + 2)
            } else {
                self.read_at(module, &tokens, at, children)
            };
        }
    }

    /// Reads what begins at this token, and returns where the next begins.
    fn read_at(&mut self, module: &ModulePath, tokens: &[TokenTree], at: usize, children: &Path) -> usize {
        match &tokens[at] {
            TokenTree::Group(group) => {
                self.read_tokens(module, group.stream(), children);
                at + 1
            }
            // The path in `pub(in …)` is a visibility, not an import.
            TokenTree::Ident(word) if word == "pub" => {
                at + 1 + usize::from(matches!(tokens.get(at + 1), Some(TokenTree::Group(_))))
            }
            TokenTree::Ident(word) if word == "mod" => {
                self.read_module(module, &tokens[at + 1..], children);
                at + 3
            }
            TokenTree::Ident(word) if word == "use" && !is_punct(tokens.get(at + 1), '<') => {
                let end = tokens[at..].iter().position(|token| is_punct(Some(token), ';'));
                let end = at + end.expect("a use declaration ends");
                let mut used = Vec::new();
                read_use(&tokens[at + 1..end], &[], &mut used);
                let of = self.modules.get_mut(module).expect("the module is known");
                for (path, name) in used {
                    of.paths.insert(path.clone());
                    of.names.insert(name, path);
                }
                end + 1
            }
            TokenTree::Ident(_) => {
                let (path, end) = read_path(tokens, at);
                let is_method = at > 0 && is_punct(tokens.get(at - 1), '.');
                if path.len() > 1 && !is_method {
                    self.modules.get_mut(module).expect("the module is known").paths.insert(path);
                }
                end
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => at + 1,
        }
    }

    /// Reads what follows `mod`: a name, then either `;` or the module itself.
    fn read_module(&mut self, parent: &ModulePath, tokens: &[TokenTree], children: &Path) {
        let name = tokens[0].to_string();
        let module: ModulePath = parent.iter().cloned().chain([name.clone()]).collect();
        let folder = children.join(&name);
        if let Some(TokenTree::Group(group)) = tokens.get(1) {
            let file = self.modules[parent].file.clone();
            // It may be there already: one of two that `cfg` chooses from.
            self.modules.entry(module.clone()).or_insert(Module { file, ..Module::default() });
            self.read_tokens(&module, group.stream(), &folder);
        } else {
            let files: [PathBuf; 2] = [folder.with_extension("rs"), folder.join("mod.rs")];
            let file = files.iter().find(|file| file.exists());
            let file = file.unwrap_or_else(|| panic!("{} has no file for mod {name}", children.display()));
            self.read_file(&module, file, &folder);
        }
    }

    /// The module that a path leads to from within `module`, if it is one of these sources.
    fn resolve(&self, module: &[String], path: &[String], depth: usize) -> Option<ModulePath> {
        let mut rest = path;
        let mut found: ModulePath = match path.first()?.as_str() {
            "crate" => module[..1].to_vec(),
            "self" => module.to_vec(),
            "super" => module[..module.len() - 1].to_vec(),
            name if *name == self.library => vec!["lib".to_owned()],
            name => return self.resolve_name(module, name, &path[1..], depth),
        };
        rest = &rest[1..];
        while rest.first().is_some_and(|name| name == "super") {
            found.pop();
            rest = &rest[1..];
        }
        match rest.split_first() {
            Some((name, rest)) => self.resolve_name(&found, name, rest, depth).or(Some(found)),
            None => Some(found),
        }
    }

    /// The same for a name that `module` declares or imports; `None` if it does neither.
    fn resolve_name(
        &self,
        module: &[String],
        name: &str,
        rest: &[String],
        depth: usize,
    ) -> Option<ModulePath> {
        // Two modules may import a name from each other by globs.
        if depth > 16 {
            return None;
        }
        let child: ModulePath = module.iter().cloned().chain([name.to_owned()]).collect();
        let found = if self.modules.contains_key(&child) {
            child
        } else {
            let path = self.modules.get(module)?.names.get(name)?;
            // A single name, such as `use tokio;`.
            if path.len() == 1 && path[0] == name {
                return None;
            }
            self.resolve(module, path, depth + 1)?
        };
        match rest.split_first() {
            Some((name, rest)) => self.resolve_name(&found, name, rest, depth + 1).or(Some(found)),
            None => Some(found),
        }
    }

    /// Every pair of files in which the first imports from the second.
    fn imports(&self) -> BTreeSet<(ModulePath, ModulePath)> {
        let mut imports = BTreeSet::new();
        for (name, module) in &self.modules {
            for path in &module.paths {
                if let Some(found) = self.resolve(name, path, 0) {
                    let (from, to) = (module.file.clone(), self.modules[&found].file.clone());
                    if from != to {
                        imports.insert((from, to));
                    }
                }
            }
        }
        imports
    }

    /// Modules of one parent that import each other, whichever of their files do so.
    pub(crate) fn circles(&self) -> Vec<Circle> {
        let imports = self.imports();
        let mut circles = Vec::new();
        for parent in self.modules.keys() {
            let depth = parent.len();
            let child = |file: &ModulePath| {
                let is_below = file.len() > depth && file.starts_with(parent);
                is_below.then(|| file[depth].clone())
            };
            let edges: BTreeSet<(String, String)> = imports
                .iter()
                .filter_map(|(from, to)| Some((child(from)?, child(to)?)))
                .filter(|(from, to)| from != to)
                .collect();
            for members in components(&edges) {
                let is_inside = |file: &ModulePath| child(file).filter(|child| members.contains(child));
                let imports = imports
                    .iter()
                    .filter(|(from, to)| {
                        is_inside(from).zip(is_inside(to)).is_some_and(|(from, to)| from != to)
                    })
                    .map(|(from, to)| format!("{} -> {}", from.join("::"), to.join("::")))
                    .collect();
                circles.push(Circle { parent: parent.join("::"), members, imports });
            }
        }
        circles
    }

    /// Files that import from a module that contains them, as `importer -> imported`.
    pub(crate) fn upward(&self) -> Vec<String> {
        let imports = self.imports();
        let upward = imports.iter().filter(|(from, to)| from.starts_with(to));
        upward.map(|(from, to)| format!("{} -> {}", from.join("::"), to.join("::"))).collect()
    }
}

/// Groups of more than one node in which each can be reached from each.
fn components(edges: &BTreeSet<(String, String)>) -> Vec<Vec<String>> {
    let reached_from = |start: &String| {
        let mut reached = BTreeSet::new();
        let mut open = vec![start];
        while let Some(node) = open.pop() {
            let next = edges.iter().filter(|(from, _)| from == node).map(|(_, to)| to);
            open.extend(next.filter(|to| reached.insert((*to).clone())));
        }
        reached
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        edges.iter().map(|(from, _)| (from, reached_from(from))).collect();
    let mut groups = BTreeSet::new();
    for (node, from_it) in &reached {
        let is_mutual = |other: &&String| reached.get(other).is_some_and(|back| back.contains(*node));
        let group: Vec<String> = from_it.iter().filter(is_mutual).cloned().collect();
        if group.len() > 1 {
            groups.insert(group);
        }
    }
    groups.into_iter().collect()
}

fn is_punct(token: Option<&TokenTree>, sought: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == sought)
}

/// Whether an attribute begins here that leaves an item to the tests, such as `#[cfg(test)]`.
fn is_test_attribute(tokens: &[TokenTree]) -> bool {
    let [hash, TokenTree::Group(group), ..] = tokens else { return false };
    if !is_punct(Some(hash), '#') || group.delimiter() != Delimiter::Bracket {
        return false;
    }
    let text = group.stream().to_string();
    let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.next() == Some("cfg")
        && words.clone().any(|word| word == "test")
        && !words.any(|word| word == "not")
}

/// The token after the item that begins here: behind its `;`, its `,` or its block.
fn end_of_item(tokens: &[TokenTree], begin: usize) -> usize {
    let mut is_use = false;
    for (at, token) in tokens.iter().enumerate().skip(begin) {
        is_use |= matches!(token, TokenTree::Ident(word) if word == "use");
        let is_block = matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
        if is_punct(Some(token), ';') || is_punct(Some(token), ',') || is_block && !is_use {
            return at + 1;
        }
    }
    tokens.len()
}

/// The names of the path that begins at this word, and the token behind them.
fn read_path(tokens: &[TokenTree], begin: usize) -> (Vec<String>, usize) {
    let mut path = vec![tokens[begin].to_string()];
    let mut at = begin + 1;
    while is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':') {
        let Some(TokenTree::Ident(word)) = tokens.get(at + 2) else { break };
        path.push(word.to_string());
        at += 3;
    }
    (path, at)
}

/// What a use tree brings into scope: paths, and the names in scope.
fn read_use(tokens: &[TokenTree], prefix: &[String], used: &mut Vec<(Vec<String>, String)>) {
    for tree in tokens.split(|token| is_punct(Some(token), ',')) {
        let mut path = prefix.to_vec();
        let mut name = None;
        let mut words = tree.iter();
        while let Some(token) = words.next() {
            match token {
                TokenTree::Ident(word) if word == "as" => name = words.next().map(ToString::to_string),
                // `{self}` names the module before it.
                TokenTree::Ident(word) if word == "self" && !path.is_empty() => {}
                TokenTree::Ident(word) => path.push(word.to_string()),
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    read_use(&inner, &path, used);
                    path.clear();
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    if is_punct(Some(token), '*') {
                        name = Some("*".to_owned());
                    }
                }
            }
        }
        if let Some(last) = path.last() {
            let name = name.unwrap_or_else(|| last.clone());
            used.push((path, name));
        }
    }
}
