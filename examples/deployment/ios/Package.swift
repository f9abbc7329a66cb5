// swift-tools-version:5.7
import PackageDescription

let package = Package(
    name: "Bitlab",
    platforms: [.iOS(.v14), .macOS(.v11)],
    products: [.library(name: "Bitlab", targets: ["Bitlab"])],
    targets: [
        .binaryTarget(name: "CBitlab", path: "CBitlab.xcframework"),  // README.md says how it is made
        .target(name: "Bitlab", dependencies: ["CBitlab"]),
    ]
)
