//! What the protos say about messages, fields and rpcs, by name; with their comments, which are the API's reference.
//!
//! Read once from the descriptor set that is compiled in. Start reading at [`Description::read`].

use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::source_code_info::Location;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
};

/// Everything public.
pub(crate) struct Description {
    /// By full name, as `.matins.v1.Run`.
    pub(crate) messages: BTreeMap<String, Message>,
    /// By full name: names of the values, and the comment.
    pub(crate) enums: BTreeMap<String, Words>,
    /// By `Service.Rpc`.
    pub(crate) rpcs: BTreeMap<String, Rpc>,
    /// The comment of each service.
    pub(crate) services: BTreeMap<String, String>,
}

/// One message.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) comment: String,
    pub(crate) fields: Vec<Field>,
}

/// One field of a message.
#[derive(Clone)]
pub(crate) struct Field {
    /// As in the proto.
    pub(crate) name: String,
    /// As in JSON.
    pub(crate) json_name: String,
    pub(crate) comment: String,
    pub(crate) is_list: bool,
    pub(crate) kind: Kind,
    pub(crate) proto_type: Type,
    /// Full name of its message or enum.
    pub(crate) type_name: String,
}

/// How the text of a field in a path or a query is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `true` or `false`.
    Bool,
    /// Text as it is, also of numbers, words of enums and instants.
    Text,
    /// JSON.
    Message,
}

/// The values of an enum.
pub(crate) struct Words {
    pub(crate) comment: String,
    /// Name and comment; the one that means "not used" is left out.
    pub(crate) values: Vec<(String, String)>,
}

/// One rpc.
pub(crate) struct Rpc {
    pub(crate) comment: String,
    pub(crate) input: String,
    pub(crate) output: String,
}

impl Message {
    /// A field by either of its names.
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name || field.json_name == name)
    }

    /// All names, for a hint.
    pub(crate) fn field_names(&self) -> String {
        self.fields.iter().map(|field| field.json_name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl Description {
    /// Reads what is compiled in.
    pub(crate) fn read() -> Self {
        let set = FileDescriptorSet::decode(matins_proto::FILE_DESCRIPTOR_SET);
        let set = set.expect("the build wrote it");
        let mut all = Self {
            messages: BTreeMap::new(),
            enums: BTreeMap::new(),
            rpcs: BTreeMap::new(),
            services: BTreeMap::new(),
        };
        for file in set.file.iter().filter(|file| file.package() == "matins.v1") {
            all.take_file(file);
        }
        all
    }

    /// The request message of an rpc.
    pub(crate) fn request_of(&self, rpc: &str) -> Message {
        self.messages[&self.rpcs[rpc].input].clone()
    }

    fn take_file(&mut self, file: &FileDescriptorProto) {
        let comments = Comments(file.source_code_info.as_ref().map_or(&[], |info| &info.location));
        for (at, message) in (0..).zip(&file.message_type) {
            self.take_message(message, ".matins.v1", (&comments, &[4, at]));
        }
        for (at, words) in (0..).zip(&file.enum_type) {
            self.take_enum(words, ".matins.v1", (&comments, &[5, at]));
        }
        for (at, service) in (0..).zip(&file.service) {
            self.services.insert(service.name().to_owned(), comments.at(&[6, at]));
            for (of, method) in (0..).zip(&service.method) {
                let rpc = Rpc {
                    comment: comments.at(&[6, at, 2, of]),
                    input: method.input_type().to_owned(),
                    output: method.output_type().to_owned(),
                };
                self.rpcs.insert(format!("{}.{}", service.name(), method.name()), rpc);
            }
        }
    }

    fn take_message(
        &mut self,
        message: &DescriptorProto,
        scope: &str,
        (comments, path): (&Comments<'_>, &[i32]),
    ) {
        let name = format!("{scope}.{}", message.name());
        let of = |what: i32, at: i32| [path, &[what, at]].concat();
        for (at, inner) in (0..).zip(&message.nested_type) {
            // Those of maps are no messages of their own to a reader, but say what the map holds.
            self.take_message(inner, &name, (comments, &of(3, at)));
        }
        for (at, words) in (0..).zip(&message.enum_type) {
            self.take_enum(words, &name, (comments, &of(4, at)));
        }
        let fields = (0..).zip(&message.field).map(|(at, field)| field_of(field, comments.at(&of(2, at))));
        let message = Message { comment: comments.at(path), fields: fields.collect() };
        self.messages.insert(name, message);
    }

    fn take_enum(
        &mut self,
        words: &EnumDescriptorProto,
        scope: &str,
        (comments, path): (&Comments<'_>, &[i32]),
    ) {
        let values = (0..).zip(&words.value).filter(|(_, value)| value.number() != 0);
        let values =
            values.map(|(at, value)| (value.name().to_owned(), comments.at(&[path, &[2, at]].concat())));
        let described = Words { comment: comments.at(path), values: values.collect() };
        self.enums.insert(format!("{scope}.{}", words.name()), described);
    }
}

fn field_of(field: &FieldDescriptorProto, comment: String) -> Field {
    let is_text = matches!(field.type_name(), ".google.protobuf.Timestamp" | ".google.protobuf.Duration");
    Field {
        name: field.name().to_owned(),
        json_name: field.json_name().to_owned(),
        comment,
        is_list: field.label() == Label::Repeated,
        kind: match field.r#type() {
            Type::Bool => Kind::Bool,
            Type::Message if !is_text => Kind::Message,
            Type::Message
            | Type::Group
            | Type::Enum
            | Type::String
            | Type::Bytes
            | Type::Double
            | Type::Float
            | Type::Int32
            | Type::Int64
            | Type::Uint32
            | Type::Uint64
            | Type::Sint32
            | Type::Sint64
            | Type::Fixed32
            | Type::Fixed64
            | Type::Sfixed32
            | Type::Sfixed64 => Kind::Text,
        },
        proto_type: field.r#type(),
        type_name: field.type_name().to_owned(),
    }
}

/// The comments of one file, by the path of what they belong to.
struct Comments<'a>(&'a [Location]);

impl Comments<'_> {
    fn at(&self, path: &[i32]) -> String {
        let found = self.0.iter().find(|location| location.path == path);
        let lines = found.map_or("", |location| location.leading_comments()).lines();
        lines.map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned()
    }
}
