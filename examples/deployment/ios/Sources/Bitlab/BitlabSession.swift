import CBitlab

/// What the library refuses, with its message: what was expected and what was found.
public struct BitlabError: Error, CustomStringConvertible {
    /// The group of the error: 2 input, 3 file, 4 capability, 5 internal (bitlab.h).
    public let status: Int32
    public let message: String
    public var description: String { message }

    /// Of the call that just failed on this thread.
    static func last(_ status: Int32) -> BitlabError {
        BitlabError(status: status, message: String(cString: bitlab_last_error()))
    }
}

/// What a network takes or gives.
public struct BitlabPort {
    public let name: String
    /// A `bitlab_dtype`: 0 is float32, 3 int64.
    public let dtype: Int32
    /// -1 where a size differs from run to run.
    public let shape: [Int64]
    /// The sizes as texts: "28", "batch", "2*tokens".
    public let dims: [String]

    init(_ port: bitlab_port) {
        let rank = Int(port.rank)
        name = String(cString: port.name)
        dtype = port.dtype
        shape = (0..<rank).map { port.shape[$0] }
        dims = (0..<rank).map { String(cString: port.dims[$0]!) }
    }
}

/// A tensor, row-major; images are [batch, channels, height, width].
public struct BitlabTensor {
    let bytes: [UInt8]
    let dtype: Int32
    let shape: [Int64]
    let elements: Int

    public init(_ floats: [Float], shape: [Int64]) {
        self.init(floats, Int32(BITLAB_FLOAT32.rawValue), shape)
    }

    public init(_ indices: [Int64], shape: [Int64]) {
        self.init(indices, Int32(BITLAB_INT64.rawValue), shape)
    }

    private init<T>(_ values: [T], _ dtype: Int32, _ shape: [Int64]) {
        bytes = values.withUnsafeBytes { [UInt8]($0) }
        elements = values.count
        self.dtype = dtype
        self.shape = shape
    }

    /// Whether there are as many elements as the shape says: native code reads memory unchecked.
    var isWhole: Bool {
        var count: Int64 = 1
        for size in shape {
            let (product, overflow) = count.multipliedReportingOverflow(by: size)
            if size < 0 || overflow { return false }
            count = product
        }
        return count == Int64(elements)
    }
}

/// A network that is loaded, and what a run of it needs. One thread at a time may use it.
public final class BitlabSession {
    private let model: OpaquePointer
    private let session: OpaquePointer

    public let inputs: [BitlabPort]
    public let outputs: [BitlabPort]

    /// From a .bit file, such as a resource of the app. threads: 0 for all cores.
    public convenience init(path: String, threads: Int32 = 1) throws {
        var model: OpaquePointer?
        let status = bitlab_model_load(path, &model)
        try self.init(model, status, threads)
    }

    /// From the bytes of one, which are copied.
    public convenience init(bytes: [UInt8], threads: Int32 = 1) throws {
        var model: OpaquePointer?
        let status = bytes.withUnsafeBytes { bitlab_model_load_memory($0.baseAddress, $0.count, &model) }
        try self.init(model, status, threads)
    }

    private init(_ loaded: OpaquePointer?, _ status: Int32, _ threads: Int32) throws {
        guard status == 0, let loaded = loaded else { throw BitlabError.last(status) }
        var options = bitlab_session_options()
        options.size = MemoryLayout<bitlab_session_options>.size
        options.threads = threads
        var created: OpaquePointer?
        let result = bitlab_session_create(loaded, &options, &created)
        guard result == 0, let created = created else {
            let error = BitlabError.last(result)
            bitlab_model_free(loaded)
            throw error
        }
        model = loaded
        session = created
        inputs = (0..<bitlab_model_input_count(loaded)).map { place in
            var port = bitlab_port()
            _ = bitlab_model_input(loaded, place, &port)
            return BitlabPort(port)
        }
        outputs = (0..<bitlab_model_output_count(loaded)).map { place in
            var port = bitlab_port()
            _ = bitlab_model_output(loaded, place, &port)
            return BitlabPort(port)
        }
    }

    deinit {
        bitlab_session_free(session)
        bitlab_model_free(model)
    }

    /// A text that the file carries ("model", "image"), or nil.
    public func metadata(_ key: String) -> String? {
        bitlab_model_metadata(model, key).map { String(cString: $0) }
    }

    /// Runs the tensors, in the order of `inputs`.
    public func run(_ tensors: [BitlabTensor]) throws {
        if let place = tensors.firstIndex(where: { !$0.isWhole }) {
            let tensor = tensors[place]
            throw BitlabError(status: 2, message: "[swift] as many elements as the shape \(tensor.shape) says, got \(tensor.elements) (input=\(place))")
        }
        try run(tensors[...], [])
    }

    // Pointers into arrays hold inside of a closure alone: one within the other, then the run.
    private func run(_ left: ArraySlice<BitlabTensor>, _ views: [bitlab_tensor]) throws {
        guard let tensor = left.first else {
            let status = bitlab_session_run(session, views, views.count)
            if status != 0 { throw BitlabError.last(status) }
            return
        }
        try tensor.bytes.withUnsafeBytes { data in
            try tensor.shape.withUnsafeBufferPointer { shape in
                let view = bitlab_tensor(
                    name: nil, data: data.baseAddress, shape: shape.baseAddress, rank: Int32(shape.count), dtype: tensor.dtype)
                try run(left.dropFirst(), views + [view])
            }
        }
    }

    /// A float32 output of the last run, and its shape.
    public func floats(_ place: Int = 0) throws -> (values: [Float], shape: [Int64]) {
        guard outputs.indices.contains(place), outputs[place].dtype == Int32(BITLAB_FLOAT32.rawValue) else {
            throw BitlabError(status: 2, message: "[swift] a float32 output below \(outputs.count), got \(place)")
        }
        var output = bitlab_tensor()
        let status = bitlab_session_output(session, place, &output)
        if status != 0 { throw BitlabError.last(status) }
        let shape = (0..<Int(output.rank)).map { output.shape[$0] }
        let count = Int(shape.reduce(1, *))
        guard let data = output.data else { return ([], shape) }
        let values = UnsafeBufferPointer(start: data.assumingMemoryBound(to: Float.self), count: count)
        return ([Float](values), shape)
    }

    /// Of a network with states: forgets all tokens.
    public func reset() throws {
        let status = bitlab_session_reset(session)
        if status != 0 { throw BitlabError.last(status) }
    }
}
